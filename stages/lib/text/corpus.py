"""One prepared split: `artifacts/prepare/<split>/` holds meta.json, and either documents or token shards that were published by others.

    contents: documents   documents.jsonl, one {"text": ...} a line
    contents: tokens      fineweb_<split>_<i>.bin, perhaps their byte sidecars, and the tokenizer.model that made them

meta.json: contents, split, documents, bytes, sha256 (of documents.jsonl, or of all token ids in order).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.lib.node.files import read_json
from stages.runtime.text.tokenizer import BOS, Tokenizer
from stages.runtime.tokens import shards

DOCUMENTS, TOKENIZER, META = "documents.jsonl", "tokenizer.model", "meta.json"
CHUNK_BYTES = 1 << 22


def facts(folder: Path) -> dict:
    """meta.json of a prepared split. ValueError if it is missing or not a valid one."""
    if not (Path(folder) / META).is_file():
        raise ValueError(f"{folder} is not a prepared split (it has no {META}); run: dvc repro prepare")
    found = read_json(Path(folder) / META, required=("contents", "split", "documents", "bytes", "sha256"))
    needed = {"documents": set(), "tokens": {"tokens", "tokenizer_sha256"}}.get(found["contents"])
    if needed is None or not needed <= found.keys():
        raise ValueError(f"{Path(folder) / META} is not what prepare writes; run: dvc repro prepare")
    return found


def texts(folder: Path) -> Iterator[str]:
    """The documents of a prepared split in order. Token shards are decoded. ValueError for a damaged line or shard."""
    folder = Path(folder)
    if facts(folder)["contents"] == "tokens":
        tokenizer = Tokenizer((folder / TOKENIZER).read_bytes())
        yield from (decoded(tokenizer, ids) for ids in token_documents(folder, facts(folder)["split"]))
        return
    for start, end in chunks(folder):
        yield from read_chunk(folder, start, end)


def last_texts(folder: Path, num_bytes: int) -> list[str]:
    """The last whole documents with at most `num_bytes` bytes of text together. Reads hardly more than these."""
    folder, kept, used = Path(folder), [], 0
    for text in _backwards(folder):
        used += len(text.encode())
        if used > num_bytes:
            break
        kept.append(text)
    return kept[::-1]


def chunks(folder: Path) -> list[tuple[int, int]]:
    """Byte ranges that cover documents.jsonl. A line belongs to the range in which it begins."""
    total = (Path(folder) / DOCUMENTS).stat().st_size
    return [(start, min(start + CHUNK_BYTES, total)) for start in range(0, total, CHUNK_BYTES)]


def read_chunk(folder: Path, start: int, end: int) -> Iterator[str]:
    """The documents whose lines begin in [start, end) of documents.jsonl."""
    path = Path(folder) / DOCUMENTS
    with open(path, "rb") as handle:
        if start:
            handle.seek(start - 1)
            handle.readline()  # skip to the end of the line that began before `start`
        position = handle.tell()
        while position < end and (line := handle.readline()):
            yield _text(line, path, position)
            position += len(line)


def token_documents(folder: Path, split: str) -> Iterator[np.ndarray]:
    """The ids of each document of a split of token shards, without BOS. Holds one shard and one document in memory at a time."""
    carried: list[np.ndarray] = []
    for path in shards.token_paths(folder, split):
        tokens = shards.read(path)
        starts = np.flatnonzero(tokens == BOS)
        parts = np.split(tokens, starts)
        if len(parts[0]):
            carried.append(parts[0])
        for part in parts[1:]:
            if carried:
                yield np.concatenate(carried)[1:]
            carried = [part]  # begins with BOS, which starts a new document
    if carried:
        yield np.concatenate(carried)[1:]


def decoded(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """The text of one document of token shards; ValueError if the ids do not spell UTF-8."""
    try:
        return tokenizer.decode(ids.tolist()).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a document of the token shards does not decode to UTF-8 ({error.reason}); use the tokenizer that made them"
        ) from None


def _backwards(folder: Path) -> Iterator[str]:
    if facts(folder)["contents"] == "tokens":
        tokenizer = Tokenizer((folder / TOKENIZER).read_bytes())
        for path in reversed(shards.token_paths(folder, facts(folder)["split"])):
            tokens = shards.read(path)
            for ids in reversed(np.split(tokens, np.flatnonzero(tokens == BOS))[1:]):  # without a document that began in an earlier shard
                yield decoded(tokenizer, ids[1:])
        return
    for start, end in reversed(chunks(folder)):
        yield from reversed(list(read_chunk(folder, start, end)))


def _text(line: bytes, path: Path, position: int) -> str:
    try:
        text = json.loads(line)["text"]
        text.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: the line at byte {position} is not a prepared document ({error}); run: dvc repro prepare") from None
    return text


def walk(path: Path) -> list[Path]:
    """The files below a folder, without hidden ones, in no particular order. Links to folders are followed, each once."""
    found, seen = [], set()
    for folder, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            found += [Path(folder, name) for name in names if not name.startswith(".")]
        seen.add(real)
    return found
