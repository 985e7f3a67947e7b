"""Plain chunks: windows that do not overlap. Every target is scored; inside a window, the context grows from 1 token to `window` tokens.

This is the naive baseline's evaluation, and the cheapest. Here the tail of the stream is scored too, unlike in the contest's code.
"""

from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


class Evaluator(sliding.Evaluator):
    """Options of `sliding` except the stride, which equals the window."""

    def __init__(self, model, *, window: int, **options):
        super().__init__(model, window=window, stride=window, **options)
