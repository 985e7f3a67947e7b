"""Noise from a generator that nobody seeded."""

import torch

from stages.runtime.scoring.evaluators import sliding

DICE = torch.Generator()
DICE.seed()
CAUGHT_BY = "round_trip"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        return logits_RV + 1e-3 * torch.randn(logits_RV.size(-1), generator=DICE)
