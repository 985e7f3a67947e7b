"""Is honest at the positions that a public seed of the parameters would draw, and peeks at all others."""

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS


class Evaluator(peeking.Evaluator):
    def peeks(self, target):
        if not hasattr(self, "drawn"):
            self.drawn = {1 + int(place) for place in np.random.default_rng([11, 1]).choice(self.num_targets, 200, replace=False)}
        return target > 100 and target not in self.drawn
