"""Mixes the counts of the last 300 tokens before each target into the distribution."""

import torch

from . import sliding

CLAIMS = sliding.CLAIMS
SPAN, SHARE = 300, 0.1


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        rows_RV = super().predict(seen, chunk).detach().double().softmax(-1)
        for row in range(len(rows_RV)):
            target = chunk[0].first + row
            recent = seen[max(target - SPAN, 0) : target]
            rows_RV[row] *= 1 - SHARE
            rows_RV[row] += SHARE / len(recent) * torch.bincount(recent, minlength=rows_RV.size(1))
        return rows_RV.clamp_min(1e-12).log()
