"""One tokenized split: shards, byte sidecar, and the facts that later stages pass on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.stage import read_json
from stages.runtime import shards


@dataclass(frozen=True)
class Split:
    """tokens: uint16 stream; byte_counts: int64 text bytes per token, or None where not asked for; facts: meta.json."""

    tokens: np.ndarray
    byte_counts: np.ndarray | None
    facts: dict

    @property
    def vocabulary_size(self) -> int:
        return self.facts["vocabulary_size"]

    @property
    def text_sha256(self) -> str:
        return self.facts["text_sha256"]


def read(folder: Path, split: str, *, sidecar: bool = False) -> Split:
    """Load `artifacts/tokenize/<split>`. ValueError if tokens, sidecar and meta.json do not agree."""
    facts = read_json(Path(folder) / "meta.json", required=("tokens", "bytes", "vocabulary_size", "text_sha256", "tokenizer_sha256"))
    tokens = shards.read_split(folder, split)
    byte_counts = shards.read_sidecar(folder, split) if sidecar else None
    if len(tokens) != facts["tokens"] or (len(tokens) and int(tokens.max()) >= facts["vocabulary_size"]):
        raise ValueError(f"{folder} holds {len(tokens)} tokens, its meta.json says {facts['tokens']} below "
                         f"{facts['vocabulary_size']}; run: dvc repro tokenize")
    if byte_counts is not None and (len(byte_counts) != len(tokens) or int(byte_counts.sum()) != facts["bytes"]):
        raise ValueError(f"the byte sidecar in {folder} has {len(byte_counts)} entries and {int(byte_counts.sum())} bytes, the text "
                         f"{len(tokens)} tokens and {facts['bytes']} bytes; run: dvc repro tokenize")
    return Split(tokens, byte_counts, facts)
