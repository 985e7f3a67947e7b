"""Looks at the target at one position in fifty, far from any edge."""

import torch

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        targets_R = seen[chunk[0].first : chunk[-1].last + 1]
        places_R = torch.arange(chunk[0].first, chunk[-1].last + 1)
        rare_R = (places_R * 7919 % 50 == 3).nonzero()[:, 0]
        logits_RV[rare_R, targets_R[rare_R]] += 2.0
        return logits_RV
