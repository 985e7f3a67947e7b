"""Token shards that were published by others: find them, check them, and use them unchanged.

A folder of the contest holds `fineweb_{train,val}_%06d.bin` and, for CaseOps, `fineweb_val_bytes_%06d.bin`. In the folder or beside it
(datasets/<export>/ and tokenizers/) is the tokenizer, `fineweb_<V>_bpe.model` or `fineweb_pure_byte_260.json`.

val is not changed. The last documents of train become holdout, so train remains a prefix of the published stream.
"""

import fnmatch
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.node import files
from stages.lib.text import accounting, corpus
from stages.runtime.text.tokenizer import BOS, Tokenizer
from stages.runtime.tokens import shards

TOKENIZERS = ("*_bpe.model", "*.model", "*_byte_260.json")
NAME = re.compile(r"_(train|val|val_bytes)_\d+\.bin$")
COPY_BYTES = 1 << 24
REENCODED = 1000  # number of val documents that are decoded and encoded again for comparison


@dataclass(frozen=True)
class Shards:
    """The files of one export. `sidecars` are the val sidecars and may be absent."""

    train: tuple[Path, ...]
    val: tuple[Path, ...]
    sidecars: tuple[Path, ...]
    tokenizer: Path


def find(path: Path) -> Shards | None:
    """The export below `path`, or None if there are no shards. ValueError if there are several exports, or files are missing."""
    named = [(file, NAME.search(file.name)) for file in corpus.walk(path)] if Path(path).is_dir() else []
    found = [(file, match[1]) for file, match in named if match]
    if not found:
        return None
    folders = sorted({file.parent for file, _ in found})
    if len(folders) > 1:
        raise ValueError(f"{path} has token shards of several exports ({', '.join(map(str, folders))}); point prepare.path at one of them")
    (folder,) = folders
    train, val, sidecars = (
        _numbered([file for file, kind in found if kind == wanted], folder, wanted) for wanted in ("train", "val", "val_bytes")
    )
    for split, shard_files in (("train", train), ("val", val)):
        if not shard_files:
            raise ValueError(f"{folder} has no {split} shards (fineweb_{split}_000000.bin and so on); get the whole export")
    if sidecars and [shards.number(file) for file in sidecars] != [shards.number(file) for file in val]:
        raise ValueError(f"{folder} has {len(sidecars)} byte sidecars for {len(val)} val shards; get one for each")
    return Shards(train, val, sidecars, _tokenizer(Path(path), folder))


def _numbered(shard_files: list[Path], folder: Path, kind: str) -> tuple[Path, ...]:
    """By their numbers, which must have no hole: documents would be glued together there. Some exports begin train at 1."""
    shard_files = sorted(shard_files, key=shards.number)
    numbers = [shards.number(file) for file in shard_files]
    first = 1 if kind == "train" and numbers[:1] == [1] else 0
    if numbers != list(range(first, first + len(numbers))):
        missing = next(i for i in range(first, first + len(numbers)) if i != numbers[i - first])
        raise ValueError(f"{folder}: fineweb_{kind}_{missing:06d}.bin is missing; get the whole export")
    return tuple(shard_files)


def _tokenizer(path: Path, folder: Path) -> Path:
    for place in (folder, path, folder.parent / "tokenizers", folder.parent.parent / "tokenizers"):
        for pattern in TOKENIZERS:
            inside = corpus.walk(place) if place == path else place.glob("*")
            found = sorted(file for file in inside if fnmatch.fnmatch(file.name, pattern))
            if size := re.search(r"_(?:sp|byte)(\d+)", folder.name):
                found = [file for file in found if re.search(rf"_{size[1]}[_.]", file.name)] or found
            if len(found) > 1:
                raise ValueError(
                    f"{place} has several tokenizers ({', '.join(file.name for file in found)}); leave the one that made the "
                    f"shards of {folder}"
                )
            if found:
                return found[0]
    raise ValueError(f"the tokenizer of the shards in {folder} is missing; put its .model file (or fineweb_pure_byte_260.json) beside them")


def take(found: Shards, folder: Path, *, val_documents: int, holdout_documents: int, progress: Callable[[int], None]) -> dict[str, dict]:
    """Copy an export into `folder/<split>/` and return the facts of each split. Files that are already there are kept.

    ValueError, naming shard, token or document, for: magic, version, length, an id above the vocabulary, a sidecar among the tokens,
    another number of val documents, or bytes that disagree. `progress` is called with the number of bytes read.
    """
    tokenizer = read_tokenizer(found.tokenizer)
    if tokenizer.has_caseops and not tokenizer.is_lossless and not found.sidecars:
        raise ValueError(
            f"{found.tokenizer} is a CaseOps tokenizer and its export has no fineweb_val_bytes_*.bin; with the piece table "
            "instead, bytes would be counted wrongly (#2071): get the sidecars"
        )
    facts = {}
    for split, shard_files in (("val", found.val), ("train", found.train)):
        facts[split] = _take_split(tokenizer, split, shard_files, folder / split, progress)
    accounting.check_val_documents(facts["val"]["documents"], val_documents, where=str(found.val[0].parent))
    _number(found.sidecars, folder / "val", "val_bytes")
    facts["val"] |= _counted(tokenizer, folder / "val", "val")
    _check_spelling(tokenizer, folder / "val", found.tokenizer)
    facts["train"], facts["holdout"] = _part_holdout(tokenizer, folder, facts["train"], holdout_documents)
    for split in facts:
        shutil.copyfile(found.tokenizer, folder / split / corpus.TOKENIZER)
        # Hash the copied files and not the sources, because a copy may also be left from an earlier run.
        facts[split] |= {
            "contents": "tokens",
            "split": split,
            "tokenizer_sha256": tokenizer.sha256,
            "sha256": _sha256(folder / split, split),
        }
    return facts


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file. ValueError naming the file if it cannot be read."""
    try:
        return Tokenizer(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _take_split(tokenizer: Tokenizer, split: str, shard_files: tuple[Path, ...], folder: Path, progress: Callable[[int], None]) -> dict:
    documents = tokens = num_bytes = 0
    before = np.array([BOS], np.uint16)  # a count may depend on the token before
    for source in shard_files:
        values = shards.read(source)
        for start in range(0, len(values), COPY_BYTES):
            part = np.asarray(values[start : start + COPY_BYTES])
            accounting.check_stream(tokenizer, part, where=str(source), at_start=tokens + start == 0)
            documents += int(np.count_nonzero(part == BOS))
            num_bytes += int(tokenizer.byte_counts(np.concatenate((before, part)))[1:].sum())
            before = part[-1:]
            progress(2 * len(part))
        tokens += len(values)
    _number(shard_files, folder, split)
    return {"documents": documents, "tokens": tokens, "bytes": num_bytes}


def _number(shard_files: tuple[Path, ...], folder: Path, kind: str) -> None:
    for i, source in enumerate(shard_files):
        target = folder / f"fineweb_{kind}_{i:06d}.bin"
        if not (target.is_file() and target.stat().st_size == source.stat().st_size):
            with files.atomic(target) as partial:
                shutil.copyfile(source, partial)


def _counted(tokenizer: Tokenizer, folder: Path, split: str) -> dict:
    """Three counts of every document of a split of token shards: what the ids decode to, the sidecar and the piece tables. A sidecar
    that is missing is written. Returns `bytes` and `counts` for meta.json; ValueError naming the first document that disagrees."""
    if not any(folder.glob(f"*_{split}_bytes_*.bin")):
        _write_sidecars(tokenizer, folder, split)
    sidecar, tokens = shards.read_sidecar(folder, split), [shards.read(path) for path in shards.token_paths(folder, split)]
    if len(sidecar) != sum(map(len, tokens)):
        raise ValueError(
            f"{folder}: the byte sidecar has {len(sidecar):,} entries, the shards {sum(map(len, tokens)):,} tokens; get both "
            "from the same export"
        )
    position, totals = 0, {"text": 0, "sidecar": int(sidecar.sum()), "pieces": 0}
    for number, ids in enumerate(corpus.token_documents(folder, split), 1):
        document = np.concatenate(([BOS], ids))
        counts = sidecar[position : position + len(document)]
        position += len(document)
        written = b"".join(map(tokenizer.piece_bytes.__getitem__, ids.tolist()))
        text_bytes = len(corpus.decoded(tokenizer, ids).encode())
        if tokenizer.counts_follow_from_ids:
            text_bytes -= not tokenizer.is_lossless and written.startswith(b" ")  # not counted, as in the contest's tables
            totals["pieces"] += accounting.check_documents(
                tokenizer,
                document,
                counts,
                np.zeros(1, np.int64),
                text_bytes=np.array([text_bytes]),
                written_bytes=np.array([len(written)]),
                where=str(folder),
                number=number,
            )
        else:
            accounting.check_operators(tokenizer, document, counts, text_bytes=text_bytes, where=f"{folder}, document {number}")
            totals["pieces"] += int(accounting.piece_counts(tokenizer, document).sum())
        totals["text"] += text_bytes
    return {"bytes": totals["sidecar"], "counts": totals}


def _write_sidecars(tokenizer: Tokenizer, folder: Path, split: str) -> None:
    before = np.array([BOS], np.uint16)  # a count may depend on the token before
    for path in shards.token_paths(folder, split):
        tokens = np.concatenate((before, shards.read(path)))
        with files.atomic(folder / f"fineweb_{split}_bytes_{shards.number(path):06d}.bin") as partial:
            shards.write(partial, tokenizer.byte_counts(tokens)[1:])
        before = tokens[-1:]


def _check_spelling(tokenizer: Tokenizer, folder: Path, path: Path) -> None:
    """ValueError if the shards were made with another tokenizer: their texts would give other tokens. CaseOps over nmt_nfkc
    honestly differs in some documents, whose normalized text is no longer what was encoded."""
    compared = same = 0
    for ids in itertools.islice(corpus.token_documents(folder, "val"), REENCODED):
        compared += 1
        same += tokenizer.encode(corpus.decoded(tokenizer, ids)) == ids.tolist()
    if 2 * same < compared:
        raise ValueError(
            f"of {compared} val documents only {same} give the same tokens again with {path}; it is not the tokenizer that "
            "made these shards: put that one there"
        )


def _part_holdout(tokenizer: Tokenizer, folder: Path, train: dict, num_documents: int) -> tuple[dict, dict]:
    """Move the last `num_documents` of train, and the shards they are in, to holdout; the shard in which the first begins is cut."""
    paths = shards.token_paths(folder / "train", "train")
    index, missing = len(paths), num_documents
    while missing > 0 and index:
        index -= 1
        starts = np.flatnonzero(shards.read(paths[index]) == BOS)
        cut = int(starts[max(0, len(starts) - missing)]) if len(starts) else 0
        missing -= len(starts)
    if missing > 0 or index == cut == 0:
        raise ValueError(
            f"{train['documents']:,} documents begin in the train shards, and prepare.holdout_documents {num_documents:,} are "
            "to be taken from their end; lower that number or get more shards"
        )
    tokens = np.array(shards.read(paths[index]))
    shutil.rmtree(folder / "holdout", ignore_errors=True)  # left by a killed attempt
    (folder / "holdout").mkdir()
    names = [folder / "holdout" / f"fineweb_holdout_{i:06d}.bin" for i in range(len(paths) - index)]
    shards.write(names[0], tokens[cut:])
    for path, name in zip(paths[index + 1 :], names[1:], strict=True):
        os.replace(path, name)
    if cut:
        with files.atomic(paths[index]) as partial:
            shards.write(partial, tokens[:cut])
    else:
        paths[index].unlink()
    held = {"documents": num_documents, "tokens": sum(len(shards.read(name)) for name in names)}
    held |= _counted(tokenizer, folder / "holdout", "holdout")
    return {name: train[name] - held[name] for name in ("documents", "tokens", "bytes")}, held


def _sha256(folder: Path, split: str) -> str:
    digest = hashlib.sha256()
    for path in shards.token_paths(folder, split):
        with open(path, "rb") as handle:
            handle.seek(shards.HEADER_BYTES)
            while part := handle.read(COPY_BYTES):
                digest.update(part)
    return digest.hexdigest()
