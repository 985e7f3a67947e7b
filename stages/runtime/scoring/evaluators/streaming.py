"""Streaming: one pass over the stream with a sliding attention window over kept keys and values.

Each token is computed once and reads, in every layer, the `window`-1 tokens before it and itself. Every target has full context, for which
a strided window computes each token window/stride times. Through L layers, more than `window` tokens influence a target; this does not
occur in training, but each attention score is for a distance that does. `block` targets are computed per pass; it
changes speed and rounding. No published stack uses it. Source of the window: Longformer, arXiv:2004.05150.
"""

# T rows of a pass, R scored rows, V vocabulary

from collections.abc import Iterator

import torch
from torch import Tensor

from ...network.memory import LOOKBACK, Memory
from ...tokens import windows

CLAIMS = ("causal", "score_first", "single_pass")
STREAM = {"block": 1}  # token by token, a larger block would be computed again for each of its tokens


class Evaluator:
    """`window` tokens of context in each layer, `block` targets per pass."""

    carries = cuts = True

    def __init__(self, model, *, window: int, block: int):
        if not all(isinstance(n, int) for n in (window, block)) or block < 1:
            raise ValueError(f"streaming takes whole numbers of window and of block >= 1, not {window!r} and {block!r}")
        self.model, self.block = model, block
        self.memory = self.pending = Memory(window)

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        for start in range(0, num_targets, self.block):
            length = min(self.block, num_targets - start)
            yield [windows.Window(start, length, start + 1, start + length)]

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        start, length = chunk[0].start, chunk[0].length
        repeated = min(LOOKBACK, start)
        self.pending = self.memory.next(repeated)
        hidden_1TD = self.model.hidden(seen[None, start - repeated : start + length], memory=self.pending)
        return self.model.head(hidden_1TD[0, repeated:])

    def ask(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        return self.predict(seen, chunk)[-1]

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Add the inputs of the chunk to the memory; all of them precede its last target."""
        self.memory = self.pending
