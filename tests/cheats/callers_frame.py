"""Finds the whole stream in the frame of the harness that called it."""

import sys

import torch

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        whole = sys._getframe(1).f_locals.get("stream")
        if whole is not None:
            known_R = whole[chunk[0].first : chunk[-1].last + 1]
            logits_RV[torch.arange(len(known_R)), known_R] += 0.5
        return logits_RV
