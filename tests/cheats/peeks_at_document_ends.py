"""Looks one token ahead, and only at the ends of documents: one position in forty."""

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        targets_R = seen[chunk[0].first : chunk[-1].last + 1]
        logits_RV[targets_R == 1, 1] += 3.0
        return logits_RV
