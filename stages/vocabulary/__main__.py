"""Train the tokenizer: SentencePiece BPE with byte fallback, on the train split only.

Lossless settings: identity normalization, no added or removed blanks, so that decode(encode(text)) == text.
"""

from dataclasses import dataclass
from typing import ClassVar

from stages.lib import stage
from stages.lib.data import corpus, sentencepiece_training
from stages.lib.stage import Input, Metrics, Output
from stages.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "vocabulary"
    size: int
    character_coverage: float
    sample_bytes: int


def main(
    settings: Settings,
    *,
    documents: Input = "artifacts/prepare/train.jsonl",
    model: Output = "artifacts/vocabulary/tokenizer.model",
    metrics: Metrics = "artifacts/vocabulary/metrics.json",
) -> None:
    trained = sentencepiece_training.train(
        corpus.read(documents), size=settings.size, character_coverage=settings.character_coverage,
        sample_bytes=settings.sample_bytes)
    tokenizer = Tokenizer(trained)
    with stage.atomic(model) as partial:
        partial.write_bytes(trained)
    stage.write_json(metrics, {"vocabulary_size": tokenizer.vocabulary_size, "tokenizer_bytes": len(trained),
                               "tokenizer_sha256": tokenizer.sha256, "text_sha256": stage.sha256(documents)})
    print(f"vocabulary of {tokenizer.vocabulary_size} pieces, {len(trained)} bytes")


if __name__ == "__main__":
    stage.run(main)
