"""Turn documents into token shards in a scratch folder, in several processes, in order, and continue after a kill.

The text is divided into chunks of whole lines. Any process may encode a chunk; its ids and byte counts are appended in the order of the
chunks. What is on disk is recorded every few seconds together with the number of the next chunk. So the shards depend neither on the number
of processes nor on kills, and no process holds more than a few chunks.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.node import files, parallel
from stages.lib.text import accounting, corpus
from stages.lib.text.encoder import Encoder
from stages.runtime.tokens import shards

SAVE_SECONDS = 5.0
PIECE_BYTES = 1 << 22  # of ids that are read from a part at once
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


def write(
    folder: Path, documents: Path, split: str, *, model: bytes, shard_tokens: int, sidecar: bool, progress, parts: list[Path] = ()
) -> Totals:
    """Encode the prepared split `documents` into shards below `folder`, or put finished `parts` of it together. `progress` is called with
    numbers of bytes of documents."""
    writer = Writer(folder, split, shard_tokens=shard_tokens, sidecar=sidecar)
    if parts:
        for number, new in enumerate(piece for part in parts for piece in read_part(part, sidecar=sidecar)):
            if number >= writer.chunks:
                writer.add(new)
            progress(new.totals.raw)
    else:
        chunks = corpus.chunks(documents)
        progress(sum(end - start for start, end in chunks[: writer.chunks]))
        for new, num_bytes in encoded(documents, chunks[writer.chunks :], model=model, sidecar=sidecar):
            writer.add(new)
            progress(num_bytes)
    writer.finish()
    return writer.totals


def encoded(documents: Path, chunks: list[tuple[int, int]], *, model: bytes, sidecar: bool) -> Iterator[tuple[Encoded, int]]:
    """Every chunk, encoded, with its number of bytes. All cores are used if there is enough to do."""
    tasks = [Task(documents, start, end, sidecar) for start, end in chunks]
    workers = parallel.workers()
    processes = min(workers, len(tasks)) if chunks and chunks[-1][1] - chunks[0][0] > FEW_BYTES else 1
    results = parallel.in_order(encode, tasks, processes=max(1, processes), initializer=_start, arguments=(model,))
    for new, (start, end) in zip(results, chunks, strict=True):
        yield new, end - start


def write_part(folder: Path, documents: Path, chunks: list[tuple[int, int]], *, model: bytes, sidecar: bool, progress) -> Totals:
    """Encode some consecutive chunks into files of a part: ids, byte counts, totals, and the sha256 of the bytes that were encoded."""
    totals = Totals()
    with open(folder / "ids", "wb") as ids, open(folder / "byte_counts", "wb") as counts:
        for new, num_bytes in encoded(documents, chunks, model=model, sidecar=sidecar):
            ids.write(new.ids)
            counts.write(new.byte_counts)
            totals.add(new.totals)
            progress(num_bytes)
    start, end = (chunks[0][0], chunks[-1][1]) if chunks else (0, 0)
    with open(documents / corpus.DOCUMENTS, "rb") as handle:
        handle.seek(start)
        digest = hashlib.sha256()
        _digest(handle, end - start, digest)
    files.write_json(folder / "facts.json", {"totals": asdict(totals), "start": start, "end": end, "sha256": digest.hexdigest()})
    return totals


def read_part(folder: Path, *, sidecar: bool) -> Iterator[Encoded]:
    """A part in pieces. The last one has the totals of the part; the others have tokens only."""
    rest = Totals(**files.read_json(folder / "facts.json", required=("totals",))["totals"])
    with open(folder / "ids", "rb") as ids, open(folder / "byte_counts", "rb") as counts:
        while rest.tokens:
            piece = ids.read(min(PIECE_BYTES, 2 * rest.tokens))
            if not piece:
                raise ValueError(f"{folder} is cut short; remove it and run this part again")
            rest.tokens -= len(piece) // 2
            totals = Totals(tokens=len(piece) // 2)
            if not rest.tokens:
                totals.add(rest)
            yield Encoded(piece, counts.read(len(piece)) if sidecar else b"", totals)


def check_parts(parts: list[Path], documents: Path, sha256: str) -> None:
    """ValueError if a part was made of other bytes than documents.jsonl has, or if this has another hash than prepare wrote down."""
    whole = hashlib.sha256()
    with open(documents / corpus.DOCUMENTS, "rb") as handle:
        for part in parts:
            facts, digest = files.read_json(part / "facts.json", required=("start", "end", "sha256")), hashlib.sha256()
            _digest(handle, facts["end"] - facts["start"], digest, whole)
            if digest.hexdigest() != facts["sha256"]:
                raise ValueError(f"{handle.name} was changed after {part} was made of it; remove {part.parent} and run the parts again")
        is_all = not handle.read(1)
    if not is_all or whole.hexdigest() != sha256:
        raise ValueError(f"{handle.name} is not what prepare wrote, it was changed since; run: dvc repro prepare")


def _digest(handle, count: int, *digests) -> None:
    while count and (part := handle.read(min(1 << 20, count))):
        count -= len(part)
        for digest in digests:
            digest.update(part)
