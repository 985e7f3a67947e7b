"""Sliding window: each target is predicted from up to `window` tokens before it, `stride` targets per forward pass.

The last layer's head runs on the scored rows only. Also the base of the other windowed evaluators, by plan and batching.
Source: parameter-golf's stride-64 evaluation, in its exactly-once form (#1218).
"""

# B windows, T time, D width, R scored rows, V vocabulary

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import windows

CLAIMS = ("causal", "score_first", "single_pass")


class Evaluator:
    """window and stride in tokens; `batch` windows per forward pass (changes speed, not causality)."""

    def __init__(self, model, *, window: int, stride: int, batch: int):
        if not all(isinstance(n, int) for n in (window, stride, batch)) or not 0 < stride <= window or batch < 1:
            raise ValueError(f"an evaluator takes whole numbers 0 < stride <= window and batch >= 1, not window {window!r}, "
                             f"stride {stride!r}, batch {batch!r}")
        self.model, self.window, self.stride, self.batch = model, window, stride, batch

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        plan = windows.plan(num_targets, window=self.window, stride=self.stride)
        for i in range(0, len(plan), self.batch):
            yield plan[i: i + self.batch]

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        hidden_BTD = self.hidden(seen, chunk)
        return self.model.head(windows.scored_rows(hidden_BTD, chunk))

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Nothing is learned."""

    @torch.no_grad()
    def hidden(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        return self.model.hidden(windows.inputs(seen, chunk, self.window))
