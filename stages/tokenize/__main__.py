"""Encode one split into token shards and a byte sidecar, in the field's format.

Every document becomes BOS + its ids, no EOS. Each document is decoded again and compared, so the byte counts are exact:
the sidecar's sum is the size of the raw documents. One node per split: nothing trained on can have read the val text.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from stages.lib import stage
from stages.lib.data import corpus
from stages.lib.stage import Input, Output, Variant
from stages.runtime import shards
from stages.runtime.tokenizer import BOS, Tokenizer


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "tokenize"
    shard_tokens: int


def main(
    split: Variant,
    settings: Settings,
    *,
    documents: Input = "artifacts/prepare/{variant}.jsonl",
    model: Input = "artifacts/vocabulary/tokenizer.model",
    folder: Output = "artifacts/tokenize/{variant}",
) -> None:
    if settings.shard_tokens < 1:
        raise ValueError(f"tokenize.shard_tokens is {settings.shard_tokens}; it takes a positive number of tokens")
    tokenizer = Tokenizer(model.read_bytes())
    parts, num_documents, num_bytes = [], 0, 0
    for text in tqdm(corpus.read(documents), desc=f"tokenize {split}", unit=" documents", mininterval=1.0):
        ids, raw = tokenizer.encode(text), text.encode()
        if tokenizer.decode(ids) != raw:
            raise ValueError(f"document {num_documents + 1} of {documents} does not survive encoding; "
                             "the tokenizer is not lossless, train it again: dvc repro vocabulary")
        parts.append(np.array([BOS, *ids], np.uint16))
        num_documents, num_bytes = num_documents + 1, num_bytes + len(raw)
    if not parts:
        raise ValueError(f"{documents} has no documents; change the split or give more text (prepare in params.yaml)")
    tokens = np.concatenate(parts)
    byte_counts = tokenizer.byte_counts[tokens]
    if int(byte_counts.sum()) != num_bytes:
        raise AssertionError(f"the sidecar sums to {byte_counts.sum()} bytes, the documents have {num_bytes}")
    with stage.atomic(folder) as partial:
        partial.mkdir()
        for i, start in enumerate(range(0, len(tokens), settings.shard_tokens)):
            span = slice(start, start + settings.shard_tokens)
            shards.write(partial / f"fineweb_{split}_{i:06d}.bin", tokens[span])
            shards.write(partial / f"fineweb_{split}_bytes_{i:06d}.bin", byte_counts[span])
        stage.write_json(partial / "meta.json", {
            "split": split, "tokens": len(tokens), "bytes": num_bytes, "documents": num_documents,
            "vocabulary_size": tokenizer.vocabulary_size, "tokenizer_sha256": tokenizer.sha256,
            "text_sha256": stage.sha256(documents)})
    print(f"{split}: {num_documents} documents, {num_bytes} bytes, {len(tokens)} tokens, "
          f"{num_bytes / (len(tokens) - num_documents):.3f} bytes per token")


if __name__ == "__main__":
    stage.run(main)
