"""Each row looks at the target of the row before the last one of its batch: a leak across the windows of a batch."""

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        late = int(seen[chunk[-1].last - 1])
        logits_RV[:, late] += 0.2
        return logits_RV
