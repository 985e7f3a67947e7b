"""The temperature of each chunk is the best of five for the chunk itself (the oracle of #659)."""

import torch

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "withheld"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk).detach()
        targets_R = seen[chunk[0].first : chunk[-1].last + 1]
        choices = [logits_RV * scale for scale in (0.6, 0.8, 1.0, 1.2, 1.5)]
        return min(choices, key=lambda one_RV: float(torch.nn.functional.cross_entropy(one_RV, targets_R)))
