"""Blocks of documents, which are read in all processes; also in the files of one part of the work (lib/text/parts.py), and back.

lines         the lines of all documents, one after the other
documents     three int64 for each document: bytes of its line, bytes of its text, and its side as a number (-1: by position)
blocks.json   the number of documents of each block
"""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.lib.node import files, parallel
from stages.prepare import builtin, local
from stages.prepare.settings import PrepareSettings
from stages.prepare.split import SPLITS, Block, First, Given, Hashed

BY_POSITION = -1
FEW_BYTES = 16_000_000  # less input than this is read before other processes have started


def rule(settings: PrepareSettings) -> Hashed | Given | First:
    """The rule that deals documents to the splits."""
    if settings.source == "builtin":
        return builtin.rule()
    if settings.split == "hash":
        return Hashed(settings.split_seed, settings.val_fraction, settings.holdout_fraction, settings.fraction)
    return First(settings.val_documents, settings.holdout_documents)


def of(paths: list[Path], dealt: Hashed | Given | First, *, skip: int = 0, span: tuple[int, int] | None = None) -> Iterator[Block]:
    """The blocks of the files without the first `skip`; with `span`, those of a part of range(local.length(paths))."""
    size = local.length(paths) if span is None else span[1] - span[0]
    tasks = (task for i, task in enumerate(local.tasks(paths, span)) if i >= skip)
    workers = parallel.workers()  # called even if it is not used, so that a wrong CADDIE_WORKERS is always reported
    processes = workers if size > FEW_BYTES else 1
    with tqdm(desc="reading", unit=" documents", disable=None) as bar:
        for new in parallel.in_order(functools.partial(local.block, rule=dealt), tasks, processes=processes):
            bar.update(len(new.sizes))
            yield new


def write(folder: Path, blocks: Iterable[Block]) -> int:
    """Write the files of a part. Returns the number of documents."""
    counts = []
    with open(folder / "lines", "wb") as lines, open(folder / "documents", "wb") as documents:
        for block in blocks:
            sides = [BY_POSITION] * len(block.lines) if block.sides is None else [SPLITS.index(side) for side in block.sides]
            rows = np.array([[len(line) for line in block.lines], block.sizes, sides], "<i8")
            lines.write(b"".join(block.lines))
            documents.write(rows.T.tobytes())
            counts.append(len(block.lines))
    files.write_json(folder / "blocks.json", {"documents": counts})
    return sum(counts)


def read(folder: Path) -> Iterator[Block]:
    """The blocks of a part. ValueError if its files are cut short."""
    with open(folder / "lines", "rb") as lines, open(folder / "documents", "rb") as documents:
        for count in files.read_json(folder / "blocks.json", required=("documents",))["documents"]:
            rows = np.frombuffer(documents.read(24 * count), "<i8")
            if len(rows) != 3 * count:
                raise ValueError(f"{folder} is cut short; remove it and run this part again")
            lengths, sizes, sides = rows.reshape(-1, 3).T.tolist()
            found = [lines.read(length) for length in lengths]
            if [len(line) for line in found] != lengths:
                raise ValueError(f"{folder} is cut short; remove it and run this part again")
            by_position = BY_POSITION in sides
            yield Block(found, sizes, None if by_position or not count else [SPLITS[side] for side in sides])
