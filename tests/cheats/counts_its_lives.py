"""Each time it is started it computes a little differently, so that nobody can repeat what it said."""

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "withheld"
STARTED = [0]


class Evaluator(sliding.Evaluator):
    def __init__(self, model, **windowing):
        super().__init__(model, **windowing)
        STARTED[0] += 1
        self.scale = 1 + 1e-4 * STARTED[0]

    def predict(self, seen, chunk):
        return super().predict(seen, chunk) * self.scale
