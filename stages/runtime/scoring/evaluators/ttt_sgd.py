"""Score-first test-time training: SGD on all weights with chunks of the stream that are already scored.

    K = ceil(N / chunk) chunks of targets; for c = 0 .. K-1:
        score the windows whose first scored target lies in chunk c (sliding window), with the weights as they are;
        if c < K-1:  rate = learning_rate / 2 (1 + cos(pi c / (K-1)));  `epochs` times over the chunk's rows of `window` tokens,
                     `rows` of them per step: gradient of the mean cross-entropy, clipped to norm 1, SGD with momentum

The momentum is kept from chunk to chunk. The last target that a chunk trains on is the last one that it scored. K, and so the rates,
depend on the declared number of targets. Source: parameter-golf #461; merged in #549 (rate 0.002, chunk 32,768, 3 epochs) and #1493
(0.005).
"""

import copy
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass", "uses_length")


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and chunk (targets), epochs, learning_rate, momentum, frozen_blocks (the first ones), rows (per step)."""

    carries = True

    def __init__(
        self, model, *, chunk: int, epochs: int, learning_rate: float, momentum: float, frozen_blocks: int, rows: int, **windowing
    ):
        super().__init__(model, **windowing)
        for name, value, low in (("chunk", chunk, 1), ("epochs", epochs, 0), ("frozen_blocks", frozen_blocks, 0), ("rows", rows, 1)):
            adaptation.require(name, value, int, low)
        adaptation.require("learning_rate", learning_rate, (int, float), 0, 1e3)
        adaptation.require("momentum", momentum, (int, float), 0, 0.9999)
        if chunk % self.window or self.window % self.stride:
            raise ValueError(
                f"the evaluator's chunk is {chunk}; it takes a multiple of window {self.window}, and that one of stride "
                f"{self.stride}: else a chunk would train on targets that it has not scored"
            )
        self.chunk, self.epochs, self.learning_rate, self.rows, self.num_chunks = chunk, epochs, learning_rate, rows, 0
        if model is not None:
            self.model = copy.deepcopy(model).requires_grad_(True)  # a copy for this stream only
            for block in self.model.blocks[:frozen_blocks]:
                block.requires_grad_(False)
            self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
            self.optimizer = torch.optim.SGD(self.trained, lr=1.0, momentum=momentum)

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        self.num_chunks = math.ceil(num_targets / self.chunk)
        plan = windows.plan(num_targets, window=self.window, stride=self.stride)
        for _, windows_of_chunk in itertools.groupby(plan, lambda window: (window.first - 1) // self.chunk):
            own = list(windows_of_chunk)
            for i in range(0, len(own), self.batch):
                yield own[i : i + self.batch]

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        return super().predict(seen, chunk)

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Train on a chunk of the stream once its last target is committed."""
        number, rest = divmod(chunk[-1].last, self.chunk)
        if rest or number >= self.num_chunks:
            return
        rate = self.learning_rate / 2 * (1 + math.cos(math.pi * (number - 1) / (self.num_chunks - 1)))
        tokens = seen[-self.chunk - 1 :]
        for _ in range(self.epochs):
            adaptation.sgd_epoch(self.model, tokens, self.optimizer, rate=rate, window=self.window, rows=self.rows, reset_at=self.reset_at)
