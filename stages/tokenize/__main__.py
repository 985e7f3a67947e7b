"""Encode one split into token shards and, for holdout and val, a byte sidecar, in the contest's format.

Every document becomes BOS and its ids, without EOS. Its bytes are counted three times: on the text, per token and from the pieces. The
first document whose counts disagree ends the stage. Published shards are used unchanged, or with fused markers (fusing.py), and counted in
the same way. All cores are used (CADDIE_WORKERS sets another number; the result is the same). If the command is killed at any moment, the
same command continues where it stopped. There is one node per split, so nothing that is trained on can have read the val text.

    python -m stages.tokenize --inspect SHARD.bin           tokens, documents, bytes, and the first lines as text
    python -m stages.tokenize train --part 1 --of 8         one part of the work, for a scheduler; the stage puts the parts together
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import sentencepiece
from annotated_types import Interval
from tqdm import tqdm

from stages.lib.node import closure, command, files, parallel
from stages.lib.node.scratch import Folder, key
from stages.lib.node.stage import Input, Output, Untracked, Variant
from stages.lib.text import corpus, normalization, parts, prefixes
from stages.runtime.text import sentencepiece_model
from stages.runtime.text.tokenizer import Tokenizer
from stages.runtime.tokens import shards
from stages.tokenize import fusing, look, sharding


@dataclass(frozen=True)
class TokenizeSettings:
    SECTION: ClassVar[str] = "tokenize"
    shard_tokens: Annotated[int, Interval(ge=1, le=shards.MAX_TOKENS)]


def main(
    split: Variant,
    settings: TokenizeSettings,
    *,
    documents: Input = "artifacts/prepare/{variant}",
    model: Input = "artifacts/vocabulary/tokenizer.model",
    folder: Output = "artifacts/tokenize/{variant}",
    scratch: Untracked = "scratch/tokenize",
) -> None:
    prepared, tokenizer = corpus.facts(documents), Tokenizer(model.read_bytes())
    place = _place(scratch, split, settings, prepared, tokenizer)
    made = parts.finished(parts.beside(place))
    work = Folder(place.with_name(f"{place.name}-{len(made)}") if made else place)
    with work.locked():
        if prepared["contents"] == "tokens":
            facts = _take(split, documents, prepared, model, work)
        else:
            facts = _encode(split, settings, documents, prepared, model, work, made)
        files.write_json(
            work.path / split / "meta.json",
            facts
            | {
                "split": split,
                "documents": prepared["documents"],
                "vocabulary_size": tokenizer.vocabulary_size,
                "tokenizer_sha256": tokenizer.sha256,
                "text_sha256": prepared["sha256"],
                **({"prefixes": prefixes.prefixes(tokenizer.piece_bytes)} if split == "train" else {}),
                "certificate": tokenizer.certificate() | {"normalization": normalization.named(model.read_bytes())},
            },
        )
        files.link(work.path / split, folder)
        work.remove()
        parts.remove(parts.beside(place))
    print(
        f"{split}: {prepared['documents']:,} documents, {facts['bytes']:,} bytes, {facts['tokens']:,} tokens, "
        f"{facts['bytes'] / max(1, facts['tokens'] - prepared['documents']):.3f} bytes per token"
    )


def part(share: parts.Share, split: str, settings: TokenizeSettings, *, documents: Path, model: Path, folder: Path, scratch: Path) -> None:
    """Encode one part of a split. Nothing but its folder in scratch/ is written."""
    prepared, tokenizer = corpus.facts(documents), Tokenizer(model.read_bytes())
    if prepared["contents"] == "tokens":
        raise ValueError(
            f"{documents} has published shards, which are used as they are, so there is nothing to divide; run: dvc repro tokenize"
        )
    chunks = corpus.chunks(documents)
    chunks = chunks[slice(*share.span(len(chunks)))]
    with (
        parts.written(parts.beside(_place(scratch, split, settings, prepared, tokenizer)), share) as place,
        tqdm(total=sum(end - start for start, end in chunks), desc=f"tokenize {split}", unit="B", unit_scale=True, disable=None) as bar,
    ):
        sharding.write_part(place, documents, chunks, model=model.read_bytes(), sidecar=split != "train", progress=bar.update)


def _place(scratch: Path, split: str, settings: TokenizeSettings, prepared: dict, tokenizer: Tokenizer) -> Path:
    """The folder of unfinished work, by everything that the work depends on."""
    code = closure.paths("stages.tokenize.__main__")
    versions = (corpus.CHUNK_BYTES, sentencepiece.__version__)
    return Path(scratch) / key(split, asdict(settings), prepared["sha256"], tokenizer.sha256, *versions, *code)


def _encode(split: str, settings: TokenizeSettings, documents: Path, prepared: dict, model: Path, work: Folder, made: list[Path]) -> dict:
    path = documents / corpus.DOCUMENTS
    if not prepared["documents"]:
        raise ValueError(f"{documents} has no documents; change the split or give more text (prepare in params.yaml)")
    if made:
        sharding.check_parts(made, documents, prepared["sha256"])
    else:
        _check_unchanged(path, prepared)
    try:
        with tqdm(total=path.stat().st_size, desc=f"tokenize {split}", unit="B", unit_scale=True, mininterval=1.0, disable=None) as bar:
            totals = sharding.write(
                work.path / split,
                documents,
                split,
                model=model.read_bytes(),
                shard_tokens=settings.shard_tokens,
                sidecar=split != "train",
                progress=bar.update,
                parts=made,
            )
        if not made:
            _check_unchanged(path, prepared)
        if (totals.documents, totals.raw) != (prepared["documents"], prepared["bytes"]):
            raise ValueError(
                f"{path} has {totals.documents:,} documents and {totals.raw:,} bytes, prepare counted "
                f"{prepared['documents']:,} and {prepared['bytes']:,}; run: dvc repro prepare"
            )
    except parallel.WorkerKilled:
        raise
    except ValueError:
        work.remove()  # it may contain tokens of a text other than the prepared one
        raise
    return {
        "tokens": totals.tokens,
        "bytes": totals.sidecar,
        "raw_bytes": totals.raw,
        "counts": {"text": totals.text, "sidecar": totals.sidecar, "pieces": totals.pieces},
    }


def _take(split: str, documents: Path, prepared: dict, model: Path, work: Folder) -> dict:
    """Link published shards, which prepare has checked and counted. Links, because 16 GB need not be stored twice. If the vocabulary is
    theirs with fused markers, their tokens are fused instead."""
    (work.path / split).mkdir(exist_ok=True)
    if model.read_bytes() == sentencepiece_model.with_markers((documents / corpus.TOKENIZER).read_bytes(), "fused_markers"):
        return fusing.fuse(documents, work.path / split, split, Tokenizer(model.read_bytes())) | {"raw_bytes": prepared["bytes"]}
    if prepared["tokenizer_sha256"] != files.sha256(model):
        raise ValueError(
            "the shards that prepare took over were made with another tokenizer than artifacts/vocabulary has; set "
            "vocabulary.source to shards"
        )
    for path in sorted(documents.glob("*.bin")):
        (work.path / split / path.name).unlink(missing_ok=True)
        files.link_file(path, work.path / split / path.name)
    return {"tokens": prepared["tokens"], "bytes": prepared["bytes"], "raw_bytes": prepared["bytes"], "counts": prepared.get("counts")}


def _check_unchanged(path: Path, prepared: dict) -> None:
    """Called before the first chunk and after the last, because chunks of another text must not be continued from."""
    if files.sha256(path) != prepared["sha256"]:
        raise ValueError(f"{path} is not what prepare wrote, it was changed since; run: dvc repro prepare")


if __name__ == "__main__":
    if "--inspect" in sys.argv[1:]:
        look.run(sys.argv[1:])
    elif parts.is_asked_for(sys.argv[1:]):
        parts.run(main, part, sys.argv[1:])
    else:
        command.run(main)
