"""Which split a document belongs to, and the three JSONL files: one `{"text": ...}` a line, in UTF-8.

    u = sha256(seed ":" unit) / 2^256
    val if u < val_fraction, holdout if u < val_fraction + holdout_fraction, else train

The unit is what must not be torn apart: the package of a built-in document, the text itself of a local one. A side
depends on unit and seed only, never on the other documents; equal units are on the same side.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stages.lib import stage

SPLITS = ("train", "holdout", "val")


class Document(NamedTuple):
    """A text and the unit that decides on which side of the split it goes."""

    unit: str
    text: str


class Written(NamedTuple):
    """What `write` wrote, by split, and what it did not: empty documents, and whether `max_bytes` ended it."""

    documents: dict[str, int]
    bytes: dict[str, int]
    sha256: dict[str, str]
    empty_documents: int
    is_cut: bool


def side(unit: str, *, seed: int, val_fraction: float, holdout_fraction: float) -> str:
    """`train`, `holdout` or `val`; the formula is in the module's docstring."""
    u = int.from_bytes(hashlib.sha256(f"{seed}:{unit}".encode()).digest(), "big") / 2**256
    if u < val_fraction:
        return "val"
    return "holdout" if u < val_fraction + holdout_fraction else "train"


def write(
    documents: Iterable[Document],
    paths: dict[str, Path],
    *,
    seed: int,
    val_fraction: float,
    holdout_fraction: float,
    max_bytes: int,
) -> Written:
    """Write each document to its split's file, in order, as they come; the files appear when all went well.

    Ends before the first document that would bring the sum of the UTF-8 bytes over `max_bytes`. Empty documents are
    skipped and counted. ValueError if a split stays empty. `paths` has exactly the keys of `SPLITS`.
    """
    counts = dict.fromkeys(SPLITS, 0)
    sizes = dict.fromkeys(SPLITS, 0)
    hashes = {split: hashlib.sha256() for split in SPLITS}
    empty, is_cut = 0, False
    with contextlib.ExitStack() as stack:
        partials = {split: stack.enter_context(stage.atomic(paths[split])) for split in SPLITS}
        files = {split: stack.enter_context(open(partials[split], "wb")) for split in SPLITS}
        for document in documents:
            if not document.text:
                empty += 1
                continue
            size = len(document.text.encode())
            is_cut = sum(sizes.values()) + size > max_bytes
            if is_cut:
                break
            split = side(document.unit, seed=seed, val_fraction=val_fraction, holdout_fraction=holdout_fraction)
            line = json.dumps({"text": document.text}, ensure_ascii=False).encode() + b"\n"
            files[split].write(line)
            hashes[split].update(line)
            counts[split] += 1
            sizes[split] += size
        _check(counts, empty, is_cut, max_bytes)
    return Written(counts, sizes, {split: hashes[split].hexdigest() for split in SPLITS}, empty, is_cut)


def _check(counts: dict[str, int], empty: int, is_cut: bool, max_bytes: int) -> None:
    total = sum(counts.values())
    if not total and is_cut:
        raise ValueError(f"prepare.max_bytes is {max_bytes} and the first document is larger; raise it")
    if not total:
        raise ValueError(f"the corpus is empty ({empty} empty documents, no other); point prepare.path to documents "
                         "with text, or set prepare.source to builtin")
    for split, count in counts.items():
        if not count:
            remedy = {
                "train": "lower prepare.val_fraction or prepare.holdout_fraction",
                "holdout": "raise prepare.holdout_fraction",
                "val": "raise prepare.val_fraction",
            }[split]
            raise ValueError(f"the {split} split is empty: none of the {total} documents fell on its side; {remedy}, "
                             "add documents, or change prepare.split_seed")
