"""Plain chunks: windows that do not overlap, every target scored, context growing from 1 token to `window` inside each.

The naive baseline's evaluation, and the cheapest. Differs from the field's in the tail, which is scored here too.
"""

from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


class Evaluator(sliding.Evaluator):
    """Options of `sliding` but the stride, which is the window."""

    def __init__(self, model, *, window: int, **options):
        super().__init__(model, window=window, stride=window, **options)
