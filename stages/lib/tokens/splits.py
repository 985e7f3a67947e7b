"""One tokenized split: shards, byte sidecar, and the facts that later stages pass on.

Shards are memory-mapped, so a split may be larger than the memory. Text to be scored is read with its sidecar, and every id is checked
here. Text to be trained on is checked batch by batch by the loaders, because a scan of 16 GB would delay the first step.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.node.files import read_json
from stages.lib.tokens.stream import Stream
from stages.runtime.tokens import shards


@dataclass(frozen=True)
class Split:
    """tokens: the shards as one stream. byte_counts: int64 text bytes per token, or None if not asked for. facts: meta.json."""

    tokens: Stream
    byte_counts: np.ndarray | None
    facts: dict

    @property
    def vocabulary_size(self) -> int:
        return self.facts["vocabulary_size"]

    @property
    def text_sha256(self) -> str:
        return self.facts["text_sha256"]


def read(folder: Path, split: str, *, sidecar: bool = False) -> Split:
    """Open `artifacts/tokenize/<split>`. ValueError if tokens, sidecar and meta.json disagree, as far as they are read (see above)."""
    facts = read_json(Path(folder) / "meta.json", required=("tokens", "bytes", "vocabulary_size", "text_sha256", "tokenizer_sha256"))
    tokens = Stream(
        [shards.read(path) for path in shards.token_paths(folder, split)], name=str(folder), vocabulary_size=facts["vocabulary_size"]
    )
    if len(tokens) != facts["tokens"]:
        raise ValueError(f"{folder} holds {len(tokens)} tokens, its meta.json says {facts['tokens']}; run: dvc repro tokenize")
    if sidecar:
        for shard in tokens.shards:
            tokens.check(shard)
    byte_counts = shards.read_sidecar(folder, split) if sidecar else None
    if byte_counts is not None and (len(byte_counts) != len(tokens) or int(byte_counts.sum()) != facts["bytes"]):
        raise ValueError(
            f"the byte sidecar in {folder} has {len(byte_counts)} entries and {int(byte_counts.sum())} bytes, the text "
            f"{len(tokens)} tokens and {facts['bytes']} bytes; run: dvc repro tokenize"
        )
    return Split(tokens, byte_counts, facts)
