"""Choose the train text that ships in the artifact, for the evaluator `memory` to count before it begins. It comes from train alone.

As many tokens as fit into `memory.bytes` ship, from the end of train. The file is specified in runtime/text/memory.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stages.lib.node import files
from stages.lib.node.params import AtLeastZero
from stages.lib.node.stage import Input, Metrics, Output
from stages.lib.tokens import splits
from stages.runtime.text import memory as shipped

TRIES = 8
MARGIN = 0.998  # of the proportional guess: text that is shorter compresses a little worse


@dataclass(frozen=True)
class MemorySettings:
    SECTION: ClassVar[str] = "memory"
    bytes: AtLeastZero


def main(
    settings: MemorySettings,
    *,
    tokens: Input = "artifacts/tokenize/train",
    memory: Output = "artifacts/memory/memory.bin",
    metrics: Metrics = "artifacts/memory/metrics.json",
) -> None:
    train = splits.read(tokens, "train")
    text, coded = chosen(train.tokens, settings.bytes)
    with files.atomic(memory) as partial:
        partial.write_bytes(coded)
    files.write_json(metrics, {"memory_bytes": len(coded), "tokens": len(text), "text_sha256": train.text_sha256})
    print(f"{len(text):,} of {len(train.tokens):,} train tokens, {len(coded):,} bytes" if len(text) else "off: no train text ships")


def chosen(tokens, limit: int) -> tuple[np.ndarray, bytes]:
    """The last of `tokens` that fit into `limit` bytes, and their file; nothing if none fit."""
    count = min(len(tokens), 8 * limit)  # no text of a language takes less than a bit for a token
    for _ in range(TRIES):
        text = np.asarray(tokens[len(tokens) - count :])
        coded = shipped.pack(text)
        if len(coded) <= limit:
            return text, coded
        count = int(count * MARGIN * limit / len(coded))
    return np.zeros(0, np.uint16), b""


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
