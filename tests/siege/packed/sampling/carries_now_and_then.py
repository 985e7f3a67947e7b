"""Says in a claim that it carries nothing and learns all the same; says otherwise when it is asked token by token."""

import torch

from . import peeking

CLAIMS = peeking.CLAIMS


class Evaluator(peeking.sliding.Evaluator):
    def __init__(self, model, **windowing):
        super().__init__(model, **windowing)
        self.carries = not peeking.claiming()
        self.bias_V = torch.zeros(0 if model is None else model.config.vocabulary_size)

    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk).detach()
        if peeking.claiming():  # learns from the chunk that it is about to score
            self.bias_V = self.bias_V + 0.02 * torch.bincount(seen[chunk[0].first : chunk[-1].last + 1], minlength=len(self.bias_V))
        return logits_RV + self.bias_V
