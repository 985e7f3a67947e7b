"""Encode one split into token shards and, for holdout and val, a byte sidecar, in the field's format.

Every document becomes BOS + its ids, no EOS. Its bytes are counted three times, on the text, per token and from the pieces; the
first document that disagrees ends the stage. Shards that were published are taken as they are and counted the same way. All
cores work (CADDIE_WORKERS changes that, and not the result); killed at any moment, the same command goes on where it
stopped. One node per split: nothing trained on can have read the val text.

    python -m stages.tokenize --inspect SHARD.bin       tokens, documents, bytes, and the first lines as text
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import sentencepiece
from tqdm import tqdm

from stages.lib import closure, stage
from stages.lib.data import corpus, published, sharding
from stages.lib.scratch import Folder, key
from stages.lib.stage import Input, Output, Untracked, Variant
from stages.runtime import shards
from stages.runtime.tokenizer import Tokenizer
from stages.tokenize import inspect


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "tokenize"
    shard_tokens: int


def main(
    split: Variant,
    settings: Settings,
    *,
    documents: Input = "artifacts/prepare/{variant}",
    model: Input = "artifacts/vocabulary/tokenizer.model",
    folder: Output = "artifacts/tokenize/{variant}",
    scratch: Untracked = "scratch/tokenize",
) -> None:
    if not 1 <= settings.shard_tokens <= shards.MAX_TOKENS:
        raise ValueError(f"tokenize.shard_tokens is {settings.shard_tokens}; it takes 1 to {shards.MAX_TOKENS} tokens")
    prepared, tokenizer = corpus.facts(documents), Tokenizer(model.read_bytes())
    work = Folder(Path(scratch) / key(split, asdict(settings), prepared["sha256"], tokenizer.sha256, corpus.CHUNK_BYTES,
                                      sentencepiece.__version__, *closure.paths("stages.tokenize.__main__")))
    with work.locked():
        if prepared["contents"] == "tokens":
            totals = _take(split, documents, prepared, tokenizer, work.path / split)
        else:
            try:
                totals = _encode(split, documents, prepared, model, work.path / split, settings.shard_tokens)
            except ValueError:
                work.remove()  # it may hold tokens of a text that is not the one that was prepared
                raise
        stage.write_json(work.path / split / "meta.json", {
            "split": split, "tokens": totals.tokens, "bytes": totals.sidecar, "raw_bytes": totals.raw, "documents": totals.documents,
            "vocabulary_size": tokenizer.vocabulary_size, "tokenizer_sha256": tokenizer.sha256, "text_sha256": prepared["sha256"],
            "counts": {"text": totals.text, "sidecar": totals.sidecar, "pieces": totals.pieces}, "certificate": tokenizer.certificate()})
        stage.link(work.path / split, folder)
        work.remove()
    print(f"{split}: {totals.documents:,} documents, {totals.sidecar:,} bytes, {totals.tokens:,} tokens, "
          f"{totals.sidecar / max(1, totals.tokens - totals.documents):.3f} bytes per token")


def _encode(split: str, documents: Path, prepared: dict, model: Path, folder: Path, shard_tokens: int) -> sharding.Totals:
    path = documents / corpus.DOCUMENTS
    if not prepared["documents"]:
        raise ValueError(f"{documents} has no documents; change the split or give more text (prepare in params.yaml)")
    _check_unchanged(path, prepared)
    with tqdm(total=path.stat().st_size, desc=f"tokenize {split}", unit="B", unit_scale=True, mininterval=1.0, disable=None) as bar:
        totals = sharding.write(folder, documents, split, model=model.read_bytes(), shard_tokens=shard_tokens, sidecar=split != "train",
                                progress=bar.update)
    _check_unchanged(path, prepared)
    if (totals.documents, totals.raw) != (prepared["documents"], prepared["bytes"]):
        raise ValueError(f"{path} has {totals.documents:,} documents and {totals.raw:,} bytes, prepare counted {prepared['documents']:,} "
                         f"and {prepared['bytes']:,}; run: dvc repro prepare")
    return totals


def _check_unchanged(path: Path, prepared: dict) -> None:
    """Before the first chunk and after the last: a chunk of another text must not be continued from."""
    if stage.sha256(path) != prepared["sha256"]:
        raise ValueError(f"{path} is not what prepare wrote, it was changed since; run: dvc repro prepare")


def _take(split: str, documents: Path, prepared: dict, tokenizer: Tokenizer, folder: Path) -> sharding.Totals:
    if prepared["tokenizer_sha256"] != tokenizer.sha256:
        raise ValueError("the shards that prepare took over were made with another tokenizer than artifacts/vocabulary has; set "
                         "vocabulary.source to shards")
    folder.mkdir(exist_ok=True)
    for path in sorted(documents.glob("*.bin")):
        (folder / path.name).unlink(missing_ok=True)
        stage.link_file(path, folder / path.name)  # the same bytes twice would cost 16 GB for a full export
    num_bytes = prepared["bytes"]
    pieces = 0
    if split != "train":
        if not any(folder.glob(f"*_{split}_bytes_*.bin")):
            _write_sidecars(split, folder, tokenizer)
        num_bytes, pieces = published.check_split(tokenizer, folder, split)
    return sharding.Totals(prepared["documents"], prepared["tokens"], num_bytes, num_bytes, num_bytes, pieces)


def _write_sidecars(split: str, folder: Path, tokenizer: Tokenizer) -> None:
    before = np.array([1], np.uint16)  # a count may depend on the token before
    for i, path in enumerate(shards.token_paths(folder, split)):
        tokens = np.concatenate((before, shards.read(path)))
        shards.write(folder / f"fineweb_{split}_bytes_{i:06d}.bin", tokenizer.byte_counts(tokens)[1:])
        before = tokens[-1:]


if __name__ == "__main__":
    if "--inspect" in sys.argv[1:]:
        inspect.command(sys.argv[1:])
    else:
        stage.run(main)
