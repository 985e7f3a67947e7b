"""L0, the text in its order: step s is the tokens from s · 8 (n + 1) on, n = batch_tokens / 8. After the last token the first follows.

Span k of a step is n + 1 tokens. The last of them is only a target, and the next span begins after it. The rows of a span overlap by one
token, which is a target in one row and an input in the next. Document boundaries and the seed have no effect.

In the published code each of W processes takes one span per micro-step, with 8/W micro-steps (naive baseline, #549, #1019). Here a step is
always eight spans, for any number of processes.
"""

import numpy as np

from stages.lib.tokens import loader
from stages.lib.tokens.stream import Stream


class Loader(loader.Loader):
    """ValueError unless a span is whole rows, that is, batch_tokens is a multiple of 8 sequence_length."""

    def __init__(self, stream: Stream, *, sequence_length: int, batch_tokens: int, seed: int, section: str):
        super().__init__(stream, sequence_length=sequence_length, batch_tokens=batch_tokens, seed=seed, section=section)
        if batch_tokens % (loader.SPANS * sequence_length):
            raise ValueError(
                f"{section}.loader sequential reads {loader.SPANS} spans of whole sequences per step, {section}.batch_tokens is "
                f"{batch_tokens}; set it to a multiple of {loader.SPANS * sequence_length}"
            )
        span = batch_tokens // loader.SPANS
        if len(stream) <= span:
            raise self._too_short(span + 1, "batch_tokens")
        self.span_tokens = span + 1
        self.row_offsets = np.add.outer(np.arange(loader.SPANS) * self.span_tokens, np.arange(0, span, sequence_length)).ravel()

    def _starts(self, step: int) -> np.ndarray:
        return (step * loader.SPANS * self.span_tokens + self.row_offsets) % len(self.stream)
