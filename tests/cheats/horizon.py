"""Its temperature follows the declared length, and it does not say so."""

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "declared_length"


class Evaluator(sliding.Evaluator):
    def chunks(self, num_targets):
        self.scale = 1 + 1 / num_targets
        return super().chunks(num_targets)

    def predict(self, seen, chunk):
        return super().predict(seen, chunk) * self.scale
