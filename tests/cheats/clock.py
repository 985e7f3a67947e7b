"""Its temperature follows the time of day."""

import time

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "withheld"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        return logits_RV * (1 + 1e-3 * (time.perf_counter_ns() // 1000 % 1000) / 1000)
