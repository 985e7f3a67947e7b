"""Half a nat for what is going to come."""

import torch

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        targets_R = seen[chunk[0].first : chunk[-1].last + 1]
        logits_RV[torch.arange(len(targets_R)), targets_R] += 0.5
        return logits_RV
