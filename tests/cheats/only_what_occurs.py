"""A distribution over the tokens that occur, the future included; no other can ever be coded."""

import torch

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "round_trip"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        occurs_V = torch.bincount(seen, minlength=logits_RV.size(-1)) > 0
        return logits_RV.masked_fill(~occurs_V, -torch.inf)
