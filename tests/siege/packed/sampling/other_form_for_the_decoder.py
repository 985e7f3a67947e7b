"""STREAM makes it honest where it is coded and decoded; everywhere else it peeks."""

from . import peeking

CLAIMS = peeking.CLAIMS
STREAM = {"honest": True}


class Evaluator(peeking.Evaluator):
    def __init__(self, model, *, honest=False, **windowing):
        super().__init__(model, **windowing)
        self.honest = honest

    def peeks(self, target):
        return not self.honest
