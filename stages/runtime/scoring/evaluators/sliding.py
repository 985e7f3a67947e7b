"""Sliding window: each target is predicted from up to `window` tokens before it, `stride` targets per forward pass.

The head, and the queries and the feed-forward part of the last layer, run on the scored rows only. With `reset_at` (the id that starts a
document; 1 in the contest's tokenizers) no attention crosses a document's start. Most other evaluators inherit from this one.
Source: parameter-golf's stride-64 evaluation, in its exactly-once form (#1218); documents apart: #77.
"""

# B windows, T time, D width, R scored rows, V vocabulary

from collections.abc import Iterator

import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation

CLAIMS = ("causal", "score_first", "single_pass")


def claims(options: dict) -> tuple[str, ...]:
    """It claims documents_apart if `reset_at` is set."""
    return CLAIMS if options.get("reset_at") is None else (*CLAIMS, "documents_apart")


class Evaluator:
    """window and stride in tokens; `batch` windows per forward pass (changes speed, not causality); `reset_at`: a token id, or None."""

    carries = False  # nothing is carried from one chunk to the next, so parts of a stream can be scored separately

    def __init__(self, model, *, window: int, stride: int, batch: int, reset_at: int | None = None):
        if not all(isinstance(n, int) for n in (window, stride, batch)) or not 0 < stride <= window or batch < 1:
            raise ValueError(
                f"an evaluator takes whole numbers 0 < stride <= window and batch >= 1, not window {window!r}, "
                f"stride {stride!r}, batch {batch!r}"
            )
        if reset_at is not None and (not isinstance(reset_at, int) or reset_at < 0):
            raise ValueError(f"reset_at is {reset_at!r}; it takes the id of the token that starts a document, or null")
        if reset_at is not None and model is not None:
            model.attention_backend = "plain"  # uses a mask; shapes that depend on later tokens would change the rounding of earlier rows
        self.model, self.window, self.stride, self.batch, self.reset_at = model, window, stride, batch, reset_at

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        plan = windows.plan(num_targets, window=self.window, stride=self.stride)
        for i in range(0, len(plan), self.batch):
            yield plan[i : i + self.batch]

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        if self.reset_at is None and all(w.length == self.window and w.last - w.first + 1 == self.stride for w in chunk):
            with torch.no_grad():
                hidden_RD = self.model.hidden(windows.inputs(seen, chunk, self.window), last_rows=self.stride).flatten(0, 1)
        else:
            hidden_RD = windows.scored_rows(self.hidden_of(seen, chunk), chunk)
        return self.model.head(hidden_RD)

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """This evaluator learns nothing."""

    @torch.no_grad()
    def hidden_of(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        """Final hidden states (B, window, D) of the chunk's windows."""
        inputs_BT = windows.inputs(seen, chunk, self.window)
        return self.model.hidden(inputs_BT, adaptation.segments(inputs_BT, self.reset_at))
