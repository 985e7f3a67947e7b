"""A bias fitted on the chunk that it then scores: adapt first, score after."""

import torch

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "withheld"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        targets_R = seen[chunk[0].first : chunk[-1].last + 1]
        bias_V = torch.zeros(logits_RV.size(-1))
        for _ in range(5):
            bias_V -= 0.5 * (logits_RV + bias_V).softmax(-1).mean(0)
            bias_V += 0.5 * torch.bincount(targets_R, minlength=len(bias_V)) / len(targets_R)
        return logits_RV + bias_V
