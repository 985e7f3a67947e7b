"""The text that a program is scored on, from files of others: laid out and checked as `prepare` and `tokenize` leave it.

    tokens       shards of the contest's format: *_val_*.bin, and *_holdout_*.bin and *_train_*.bin if there are any
    tokenizer    the SentencePiece model, or the JSON of plain bytes, that made them
    text         the documents of val, one {"text": ...} a line; without them the bytes are counted from the ids

Where the shards come with byte sidecars, *_val_bytes_*.bin, these are what the score is divided by, and the check `byte_count` compares
them with the documents.
"""

import hashlib
import shutil
from pathlib import Path

import numpy as np

from stages.lib.node import files
from stages.lib.node.params import require
from stages.lib.text import accounting, corpus
from stages.runtime.text.tokenizer import BOS, Tokenizer
from stages.runtime.tokens import shards

SPLITS = ("val", "holdout", "train")


def lay_out(root: Path, *, tokens: Path, tokenizer: Path, text: Path | None) -> None:
    """Write root/tokenize/<split> for each split that is there, and root/prepare/val. ValueError if there is no val, if tokens cannot be of
    this tokenizer, or if the documents are damaged."""
    require(tokens.is_dir(), f"--tokens {tokens} is no folder; give the one that holds *_val_*.bin")
    require(tokenizer.is_file(), f"{tokenizer} is missing; name the tokenizer that made the tokens with --tokenizer")
    model = Tokenizer(tokenizer.read_bytes())
    ids = {split: _tokenized(root / "tokenize" / split, split, tokens, model) for split in SPLITS if split == "val" or _has(tokens, split)}
    prepared = root / "prepare/val"
    prepared.mkdir(parents=True)
    if text is None:
        facts = {"contents": "tokens", "documents": int((ids["val"] == BOS).sum()), "tokens": len(ids["val"])}
        facts |= {"tokenizer_sha256": model.sha256, "sha256": hashlib.sha256(ids["val"].astype("<u2").tobytes()).hexdigest()}
    else:
        documents = _documents(text, prepared / corpus.DOCUMENTS)
        facts = {"contents": "documents", "documents": documents, "sha256": files.sha256(prepared / corpus.DOCUMENTS)}
    for split, stream in ids.items():
        folder = root / "tokenize" / split
        if split != "train" and not any(folder.glob(f"*_{split}_bytes_*.bin")):
            _write_bytes(folder, split, stream, model)
        num_bytes = None if split == "train" else int(shards.read_sidecar(folder, split).sum())
        about = {"split": split, "tokens": len(stream), "bytes": num_bytes, "documents": int((stream == BOS).sum())}
        about |= {"vocabulary_size": model.vocabulary_size, "tokenizer_sha256": model.sha256}
        about |= {"text_sha256": facts["sha256"] if split == "val" else hashlib.sha256(stream.astype("<u2").tobytes()).hexdigest()}
        files.write_json(folder / "meta.json", about)
        if split == "val":
            files.write_json(prepared / corpus.META, facts | {"split": "val", "bytes": num_bytes})


def _has(tokens: Path, split: str) -> bool:
    return any(_found(tokens, split))


def _found(tokens: Path, split: str) -> list[Path]:
    """Shards and sidecars of a split, in the folder or in a folder of the split's name."""
    found = {place: sorted(place.glob(f"*_{split}_*.bin")) for place in (tokens, tokens / split)}
    first, second = found.values()
    require(not (first and second), f"{tokens} and {tokens / split} both have shards of {split}; leave one of them there")
    return first or second


def _tokenized(folder: Path, split: str, tokens: Path, model: Tokenizer) -> np.ndarray:
    require(_has(tokens, split), f"{tokens} has no shards *_{split}_*.bin; export them, or give the folder that has them")
    folder.mkdir(parents=True)
    for path in _found(tokens, split):
        files.link_file(path.resolve(), folder / path.name)
    stream = shards.read_split(folder, split)
    if split != "train":
        accounting.check_stream(model, stream, where=str(tokens), at_start=True)
    return np.asarray(stream)


def _documents(text: Path, target: Path) -> int:
    """Copy the documents, and return how many there are."""
    source = text / corpus.DOCUMENTS if text.is_dir() else text
    require(source.is_file(), f'--text {text} has no documents; give a file with one {{"text": ...}} a line')
    shutil.copyfile(source, target)
    return sum(1 for start, end in corpus.chunks(target.parent) for _ in corpus.read_chunk(target.parent, start, end))


def _write_bytes(folder: Path, split: str, stream: np.ndarray, model: Tokenizer) -> None:
    """The sidecar, from the ids."""
    require(
        model.counts_follow_from_ids,
        f"the bytes of {split} do not follow from its ids with this tokenizer; put its sidecar *_{split}_bytes_*.bin beside its shards",
    )
    shards.write(folder / f"tokens_{split}_bytes_000000.bin", model.byte_counts(stream))
