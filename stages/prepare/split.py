"""Which split a document belongs to, and the writing of the three JSONL files: one `{"text": ...}` a line, in UTF-8.

    Hashed   u = sha256(seed ":" unit) / (fraction 2^256);  left out if u >= 1,
             val if u < val_fraction, holdout if u < val_fraction + holdout_fraction, else train
    First    the contest's: the first `val_documents` are val, all later ones train, of which the last `holdout_documents` are holdout;
             train is then a prefix of the published stream
    Given    by a list: the split of each unit is named (the built-in text)

The unit is what must stay together: the distribution of a built-in document, or the text itself of any other. The split of a document
depends only on its unit and the seed or the list, never on other documents. Equal units go to the same split.

`Writer` takes documents in blocks and appends them to files in a scratch folder. It records what is on disk every few seconds, so a killed
run continues after the last recorded block and ends with the same files.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stages.lib.node import files

SPLITS = ("train", "holdout", "val")
SAVE_SECONDS = 5.0


class Document(NamedTuple):
    """A text, and the unit that decides its split."""

    unit: str
    text: str


@dataclass(frozen=True)
class Hashed:
    """Split by the hash of the unit; see the module's docstring."""

    seed: int
    val_fraction: float
    holdout_fraction: float
    fraction: float = 1.0

    def side(self, unit: str) -> str | None:
        """`train`, `holdout`, `val`, or None for a document that is left out."""
        u = int.from_bytes(hashlib.sha256(f"{self.seed}:{unit}".encode()).digest(), "big") / 2**256 / self.fraction
        if u >= 1:
            return None
        if u < self.val_fraction:
            return "val"
        return "holdout" if u < self.val_fraction + self.holdout_fraction else "train"


@dataclass(frozen=True)
class Given:
    """Split by a list."""

    sides: dict[str, str]

    def side(self, unit: str) -> str:
        """`train`, `holdout` or `val`."""
        return self.sides[unit]


@dataclass(frozen=True)
class First:
    """Split by position, as the contest does; see the module's docstring."""

    val_documents: int
    holdout_documents: int


class Block(NamedTuple):
    """Some documents as they will be written: lines, bytes of text of each, and sides (None: by position)."""

    lines: list[bytes]
    sizes: list[int]
    sides: list[str] | None


class Written(NamedTuple):
    """What was written, by split, and what was not: the number of empty documents, and whether `max_bytes` ended the writing."""

    documents: dict[str, int]
    bytes: dict[str, int]
    sha256: dict[str, str]
    empty_documents: int
    is_cut: bool


def block(documents: Iterable[Document], rule: Hashed | Given | First) -> Block:
    """Serialise documents. This part of the work is done in parallel."""
    lines, sizes, sides = [], [], []
    for unit, text in documents:
        if not isinstance(rule, First):
            if (side := rule.side(unit)) is None:
                continue
            sides.append(side)
        raw = text.encode()
        sizes.append(len(raw))
        lines.append(b'{"text": ' + json.dumps(text, ensure_ascii=False).encode() + b"}\n")
    return Block(lines, sizes, None if isinstance(rule, First) else sides)


class Writer:
    """Appends blocks to `folder/<split>.jsonl` and continues the files of an earlier process. `blocks` is the number of the next block."""

    def __init__(self, folder: Path, rule: Hashed | Given | First, *, max_bytes: int | None):
        self.folder, self.rule, self.max_bytes = Path(folder), rule, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.blocks, self.empty, self.is_cut = 0, 0, False
        self.documents, self.bytes, self.file_bytes = ({split: 0 for split in SPLITS} for _ in range(3))
        # Bytes of the line and of the text of the last train documents, which become holdout at the end.
        self.tail: deque = deque(maxlen=rule.holdout_documents if isinstance(rule, First) else 0)
        self._resume()
        self.files = {
            split: open(self.path(split), "r+b" if self.path(split).exists() else "w+b")  # noqa: SIM115 (closed by close)
            for split in SPLITS
        }
        for split, file in self.files.items():
            file.truncate(self.file_bytes[split])
            file.seek(self.file_bytes[split])
        self.saved = time.monotonic()

    def path(self, split: str) -> Path:
        return self.folder / f"{split}.jsonl"

    def add(self, new: Block) -> None:
        """Append one block. Writing stops before the first document that would bring the sum over `max_bytes`."""
        parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
        total = sum(self.bytes.values())
        for i, (line, size) in enumerate(zip(new.lines, new.sizes, strict=True)):
            if not size:
                self.empty += 1
                continue
            self.is_cut = self.max_bytes is not None and total + size > self.max_bytes
            if self.is_cut:
                break
            total += size
            side = new.sides[i] if new.sides else "val" if self.documents["val"] < self.rule.val_documents else "train"
            parts[side].append(line)
            self.documents[side] += 1
            self.bytes[side] += size
            self.file_bytes[side] += len(line)
            if side == "train":
                self.tail.append((len(line), size))
        for split, lines in parts.items():
            self.files[split].write(b"".join(lines))
        self.blocks += 1
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Record what is on disk."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        files.write_json(
            self.folder / "state.json",
            {
                "blocks": self.blocks,
                "empty": self.empty,
                "is_cut": self.is_cut,
                "documents": self.documents,
                "bytes": self.bytes,
                "file_bytes": self.file_bytes,
                "tail": list(self.tail),
            },
        )
        self.saved = time.monotonic()

    def _resume(self) -> None:
        if not (self.folder / "state.json").is_file():
            return
        state = files.read_json(self.folder / "state.json", required=("blocks", "file_bytes"))
        if all(self.path(split).is_file() and self.path(split).stat().st_size >= state["file_bytes"][split] for split in SPLITS):
            self.blocks, self.empty, self.is_cut = state["blocks"], state["empty"], state["is_cut"]
            self.documents, self.bytes, self.file_bytes = state["documents"], state["bytes"], state["file_bytes"]
            self.tail.extend(map(tuple, state["tail"]))

    def finish(self) -> Written:
        """Close the files, separate holdout from train, and hash them. ValueError if a split is empty."""
        if isinstance(self.rule, First):
            self._part_holdout()
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        _check(self.documents, self.empty, self.is_cut, self.max_bytes, self.rule)
        return Written(self.documents, self.bytes, {split: files.sha256(self.path(split)) for split in SPLITS}, self.empty, self.is_cut)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _part_holdout(self) -> None:
        train = self.files["train"]
        start = self.file_bytes["train"] - sum(length for length, _ in self.tail)
        train.seek(start)
        while part := train.read(1 << 20):
            self.files["holdout"].write(part)
        train.truncate(start)
        text_bytes = sum(size for _, size in self.tail)
        for split, sign in (("train", -1), ("holdout", 1)):
            self.documents[split] += sign * len(self.tail)
            self.bytes[split] += sign * text_bytes


def left_out(written: Written, there: int, is_compressed: bool, max_bytes: int) -> str:
    """A warning with how much text `max_bytes` leaves out. `there` are the bytes of the files."""
    used = sum(written.bytes.values())
    share = "" if is_compressed else f" ({used / there:.1%})"
    return (
        f"caddie prepare: WARNING: prepare.max_bytes = {max_bytes:,} leaves text out: of {there:,} bytes in the "
        f"{'compressed ' * is_compressed}files, {used:,} bytes of text{share} are used and all documents that follow are not; set it "
        "higher, or to null"
    )


def _check(counts: dict[str, int], empty: int, is_cut: bool, max_bytes: int | None, rule: Hashed | Given | First) -> None:
    total = sum(counts.values())
    if not total and is_cut:
        raise ValueError(f"prepare.max_bytes is {max_bytes} and the first document is larger; raise it")
    if not total:
        raise ValueError(
            f"the corpus is empty ({empty} empty documents, no other); point prepare.path to documents "
            "with text, or set prepare.source to builtin"
        )
    if total < len(SPLITS):
        raise ValueError(
            f"the corpus has {total} document{'s' * (total > 1)}, and train, holdout and val need one each; a text file is one document: "
            "cut it into several, for example with: mkdir data/my_texts && split -l 100 --additional-suffix=.txt FILE data/my_texts/, or "
            "write JSON lines, a document each"
        )
    if isinstance(rule, First) and not (counts["train"] and counts["val"] == rule.val_documents):
        raise ValueError(
            f"the corpus has {total:,} documents; the first {rule.val_documents:,} are val (prepare.val_documents) and the "
            f"last {rule.holdout_documents:,} holdout (prepare.holdout_documents), which leaves none to train on; give more "
            "documents, raise prepare.max_bytes, or set prepare.split to hash"
        )
    for split, count in counts.items():
        if not count:
            remedy = {
                "train": "lower prepare.val_fraction or prepare.holdout_fraction",
                "holdout": "raise prepare.holdout_fraction",
                "val": "raise prepare.val_fraction",
            }[split]
            raise ValueError(
                f"the {split} split is empty: none of the {total} documents fell on its side; {remedy}, "
                "add documents, or change prepare.split_seed"
            )
