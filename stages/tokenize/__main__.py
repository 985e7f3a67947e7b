"""Encode one split into token shards and, for holdout and val, a byte sidecar, in the contest's format.

Every document becomes BOS and its ids, without EOS. Its bytes are counted three times: on the text, per token and from the pieces. The
first document whose counts disagree ends the stage. Published shards are used unchanged and counted in the same way. All cores are used
(CADDIE_WORKERS sets another number; the result is the same). If the command is killed at any moment, the same command continues where it
stopped. There is one node per split, so nothing that is trained on can have read the val text.

    python -m stages.tokenize --inspect SHARD.bin       tokens, documents, bytes, and the first lines as text
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
from stages.lib.text import corpus, normalization
from stages.runtime.text.tokenizer import Tokenizer
from stages.runtime.tokens import shards
from stages.tokenize import look, sharding


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
    work = Folder(
        Path(scratch)
        / key(
            split,
            asdict(settings),
            prepared["sha256"],
            tokenizer.sha256,
            corpus.CHUNK_BYTES,
            sentencepiece.__version__,
            *closure.paths("stages.tokenize.__main__"),
        )
    )
    with work.locked():
        take = _take if prepared["contents"] == "tokens" else _encode
        facts = take(split, settings, documents, prepared, model, work)
        files.write_json(
            work.path / split / "meta.json",
            facts
            | {
                "split": split,
                "documents": prepared["documents"],
                "vocabulary_size": tokenizer.vocabulary_size,
                "tokenizer_sha256": tokenizer.sha256,
                "text_sha256": prepared["sha256"],
                "certificate": tokenizer.certificate() | {"normalization": normalization.named(model.read_bytes())},
            },
        )
        files.link(work.path / split, folder)
        work.remove()
    print(
        f"{split}: {prepared['documents']:,} documents, {facts['bytes']:,} bytes, {facts['tokens']:,} tokens, "
        f"{facts['bytes'] / max(1, facts['tokens'] - prepared['documents']):.3f} bytes per token"
    )


def _encode(split: str, settings: TokenizeSettings, documents: Path, prepared: dict, model: Path, work: Folder) -> dict:
    path = documents / corpus.DOCUMENTS
    if not prepared["documents"]:
        raise ValueError(f"{documents} has no documents; change the split or give more text (prepare in params.yaml)")
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
            )
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


def _take(split: str, settings: TokenizeSettings, documents: Path, prepared: dict, model: Path, work: Folder) -> dict:
    """Link published shards, which prepare has checked and counted. Links, because 16 GB need not be stored twice."""
    if prepared["tokenizer_sha256"] != files.sha256(model):
        raise ValueError(
            "the shards that prepare took over were made with another tokenizer than artifacts/vocabulary has; set "
            "vocabulary.source to shards"
        )
    (work.path / split).mkdir(exist_ok=True)
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
    else:
        command.run(main)
