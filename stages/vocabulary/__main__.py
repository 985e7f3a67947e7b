"""Make the tokenizer and its certificate. It is trained on the train split only, taken from a file, or the contest's 260 bytes.

source: bpe     SentencePiece BPE with byte fallback. `normalization: identity` keeps every text, decode(encode(text)) == text;
                `nmt_nfkc` is the contest's own setting, which replaces characters and merges blanks.
        bytes   4 special ids and the 256 bytes
        file    vocabulary.path, such as the contest's fineweb_1024_bpe.model
        shards  the one that came with the token shards of prepare

`transform: caseops` writes the case of words as operators in front of them (runtime/text/caseops.py), which become pieces. Two transforms
also treat the blank in front of such a word, and are written into the model: `fused_markers` (runtime/text/fused_markers.py) makes one
token of blank and operator, `operators_first` (runtime/text/operators_first.py) puts the operator before the blank. They also apply to a
tokenizer that has CaseOps and comes from `file` or, for fused_markers, from `shards`, whose tokens `tokenize` then fuses.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from stages.lib.node import files
from stages.lib.node.params import AtLeastOne
from stages.lib.node.stage import Input, Metrics, Output
from stages.lib.text import corpus, normalization
from stages.runtime.text import sentencepiece_model
from stages.runtime.text.tokenizer import PURE_BYTE, Tokenizer
from stages.vocabulary import sentencepiece_training


@dataclass(frozen=True)
class VocabularySettings:
    SECTION: ClassVar[str] = "vocabulary"
    source: Literal["bpe", "bytes", "file", "shards"]
    path: str
    size: Annotated[int, Interval(ge=261, le=65536)]
    normalization: Literal["identity", "nmt_nfkc"]
    transform: Literal["none", "caseops", "fused_markers", "operators_first"]
    character_coverage: Annotated[float, Interval(gt=0, le=1)]
    sample_bytes: AtLeastOne | None
    sample_documents: AtLeastOne | None


def main(
    settings: VocabularySettings,
    *,
    file: Input = "${vocabulary.path}",
    documents: Input = "artifacts/prepare/train",
    model: Output = "artifacts/vocabulary/tokenizer.model",
    metrics: Metrics = "artifacts/vocabulary/metrics.json",
) -> None:
    content = _model(settings, file, documents)
    try:
        tokenizer = Tokenizer(content)
    except ValueError as error:
        raise ValueError(f"{file if settings.source == 'file' else 'the new tokenizer'}: {error}") from None
    if settings.source == "bpe" and tokenizer.vocabulary_size < settings.size:
        print(f"the text gives no more than {tokenizer.vocabulary_size} pieces of the {settings.size} asked for")
    with files.atomic(model) as partial:
        partial.write_bytes(content)
    files.write_json(
        metrics,
        {
            "vocabulary_size": tokenizer.vocabulary_size,
            "tokenizer_bytes": len(content),
            "tokenizer_sha256": tokenizer.sha256,
            "text_sha256": corpus.facts(documents)["sha256"],
            "certificate": tokenizer.certificate() | {"normalization": normalization.named(content)},
        },
    )
    print(
        f"vocabulary of {tokenizer.vocabulary_size} pieces, {len(content)} bytes, "
        + ("lossless" if tokenizer.is_lossless else f"not lossless: {'; '.join(tokenizer.settings.lossy_because)}")
    )


def _model(settings: VocabularySettings, file: Path, documents: Path) -> bytes:
    tokenized = corpus.facts(documents)["contents"] == "tokens"
    if tokenized != (settings.source == "shards"):
        wrong = "token shards, so the tokenizer is theirs: set" if tokenized else "documents and no token shards: do not set"
        raise ValueError(f"prepare gave {wrong} vocabulary.source to shards")
    markers = settings.transform if settings.transform in sentencepiece_model.MARKERS else ""
    if settings.source == "shards":
        if markers == "operators_first":
            raise ValueError(
                "operators_first gives other tokens than the shards have; set vocabulary.transform to fused_markers, or prepare documents"
            )
        return _with(markers, (documents / corpus.TOKENIZER).read_bytes())
    if settings.source == "file":
        if not file.is_file():
            raise ValueError(f"vocabulary.path {file} is not a file; give the .model file of a tokenizer, or set vocabulary.source to bpe")
        return _with(markers, file.read_bytes())
    if settings.source == "bytes":
        if settings.transform != "none":
            raise ValueError(
                f"vocabulary.transform {settings.transform} needs pieces for its operators, vocabulary.source bytes has none; choose one"
            )
        return json.dumps(PURE_BYTE, indent=2, sort_keys=True).encode() + b"\n"
    return sentencepiece_training.train(
        corpus.texts(documents),
        size=settings.size,
        character_coverage=settings.character_coverage,
        sample_bytes=settings.sample_bytes,
        sample_documents=settings.sample_documents,
        normalization=settings.normalization,
        caseops_transform=settings.transform != "none",
        markers=markers,
    )


def _with(markers: str, model: bytes) -> bytes:
    return sentencepiece_model.with_markers(model, markers) if markers else model


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
