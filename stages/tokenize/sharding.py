"""Turn documents into token shards in a scratch folder, in several processes, in order, and continue after a kill.

The text is divided into chunks of whole lines. Any process may encode a chunk; its ids and byte counts are appended in the order of the
chunks. What is on disk is recorded every few seconds together with the number of the next chunk. So the shards depend neither on the number
of processes nor on kills, and no process holds more than a few chunks.
"""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.node import files, parallel
from stages.lib.text import accounting, corpus
from stages.lib.text.encoder import Encoder
from stages.runtime.tokens import shards

SAVE_SECONDS = 5.0
FEW_BYTES = 4_000_000  # less text than this is encoded before other processes have started


@dataclass
class Totals:
    """Totals of what was written: documents, tokens with BOS, bytes of the raw documents, and the three counts (accounting.py).

    `pieces` counts the bytes of what the pieces spell, which for CaseOps is the transformed text.
    """

    documents: int = 0
    tokens: int = 0
    raw: int = 0
    text: int = 0
    sidecar: int = 0
    pieces: int = 0

    def add(self, other: "Totals") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class Encoded(NamedTuple):
    """One chunk: ids and byte counts as little-endian uint16."""

    ids: bytes
    byte_counts: bytes
    totals: Totals


class Task(NamedTuple):
    """The lines that begin in [start, end) of a prepared split."""

    folder: Path
    start: int
    end: int
    sidecar: bool


_encoder: Encoder | None = None  # one per process


def _start(model: bytes) -> None:
    global _encoder
    _encoder = Encoder(model)


def encode(task: Task) -> Encoded:
    """Encode one chunk. With a sidecar, every document is counted three times. ValueError naming the document that disagrees."""
    found, tokenizer = _encoder.encode(corpus.read_chunk(task.folder, task.start, task.end), sidecar=task.sidecar), _encoder.tokenizer
    counts = found.byte_counts if task.sidecar else tokenizer.byte_counts(found.ids)
    where = f"{task.folder / corpus.DOCUMENTS} after byte {task.start}"
    pieces = 0
    if task.sidecar or tokenizer.counts_follow_from_ids:
        pieces = accounting.check_documents(
            tokenizer, found.ids, counts, found.starts, text_bytes=found.text_bytes, written_bytes=found.written_bytes, where=where
        )
    totals = Totals(
        len(found.starts), len(found.ids), int(found.raw_bytes.sum()), int(found.text_bytes.sum()), int(counts.sum(dtype=np.int64)), pieces
    )
    return Encoded(found.ids.astype("<u2").tobytes(), found.byte_counts.astype("<u2").tobytes() if task.sidecar else b"", totals)


class Writer:
    """Appends values to `folder/fineweb_<split>_<i>.bin`, a new shard every `shard_tokens`, and the sidecars beside them."""

    def __init__(self, folder: Path, split: str, *, shard_tokens: int, sidecar: bool):
        self.folder, self.shard_bytes = Path(folder), 2 * shard_tokens
        self.names = [f"fineweb_{split}_{{:06d}}.bin"] + [f"fineweb_{split}_bytes_{{:06d}}.bin"] * sidecar
        self.chunks, self.totals = 0, Totals()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self.folder.with_name(self.folder.name + ".json")
        self._resume()
        self.saved = time.monotonic()

    def add(self, encoded: Encoded) -> None:
        """Append one chunk and, every few seconds, record what is on disk."""
        for name, values in zip(self.names, (encoded.ids, encoded.byte_counts), strict=False):
            self._append(name, values)
        self.totals.add(encoded.totals)
        self.chunks += 1
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def _append(self, name: str, values: bytes) -> None:
        position, view = 2 * self.totals.tokens, memoryview(values)
        while len(view):
            index, offset = divmod(position, self.shard_bytes)
            part = view[: self.shard_bytes - offset]
            path = self.folder / name.format(index)
            with open(path, "r+b" if offset else "wb") as handle:
                if not offset:
                    handle.write(bytes(shards.HEADER_BYTES))
                handle.seek(shards.HEADER_BYTES + offset)
                handle.write(part)
            position, view = position + len(part), view[len(part) :]

    def finish(self) -> None:
        """Record the end and write the headers. Readers refuse a shard without header, so an incomplete one is never taken for complete."""
        self.save()
        for name in self.names:
            for i, start in enumerate(range(0, 2 * self.totals.tokens, self.shard_bytes)):
                with open(self.folder / name.format(i), "r+b") as handle:
                    handle.write(shards.header(min(self.shard_bytes, 2 * self.totals.tokens - start) // 2))
                    handle.flush()
                    os.fsync(handle.fileno())

    def save(self) -> None:
        """Record what is on disk."""
        for path in self.folder.glob("*.bin"):
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        files.write_json(self.state, {"chunks": self.chunks, "totals": asdict(self.totals)})
        self.saved = time.monotonic()

    def _resume(self) -> None:
        if not self.state.is_file():
            return
        state = files.read_json(self.state, required=("chunks", "totals"))
        totals = Totals(**state["totals"])
        for name in self.names:  # everything recorded is there; what was written after it will be written again
            for i, start in enumerate(range(0, 2 * totals.tokens, self.shard_bytes)):
                path, length = self.folder / name.format(i), min(self.shard_bytes, 2 * totals.tokens - start)
                if not path.is_file() or path.stat().st_size < shards.HEADER_BYTES + length:
                    return
        self.chunks, self.totals = state["chunks"], totals
        for path in self.folder.glob("*.bin"):
            length = min(self.shard_bytes, 2 * totals.tokens - shards.number(path) * self.shard_bytes)
            if length <= 0:
                path.unlink()
            else:
                os.truncate(path, shards.HEADER_BYTES + length)


def write(folder: Path, documents: Path, split: str, *, model: bytes, shard_tokens: int, sidecar: bool, progress) -> Totals:
    """Encode the prepared split `documents` into shards below `folder`. `progress` is called with the number of bytes of each chunk."""
    writer = Writer(folder, split, shard_tokens=shard_tokens, sidecar=sidecar)
    chunks = corpus.chunks(documents)
    progress(sum(end - start for start, end in chunks[: writer.chunks]))
    tasks = [Task(documents, start, end, sidecar) for start, end in chunks[writer.chunks :]]
    workers = parallel.workers()
    processes = min(workers, len(tasks)) if chunks and chunks[-1][1] > FEW_BYTES else 1
    for task, encoded in zip(
        tasks, parallel.in_order(encode, tasks, processes=max(1, processes), initializer=_start, arguments=(model,)), strict=True
    ):
        writer.add(encoded)
        progress(task.end - task.start)
    writer.finish()
    return writer.totals
