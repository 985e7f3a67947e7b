"""Says that it carries something, so that a replay must walk far, and peeks only in the last nine tenths."""

from . import peeking

CLAIMS = peeking.CLAIMS


class Evaluator(peeking.Evaluator):
    carries = True

    def peeks(self, target):
        return target > self.num_targets // 10
