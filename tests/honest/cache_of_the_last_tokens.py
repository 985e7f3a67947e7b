"""No network but for the ties: counts of what followed the last three tokens, in a table of its own that grows in `learn`."""

import torch

from stages.runtime.scoring.evaluators import sliding

LAST = 3


class Evaluator(sliding.Evaluator):
    carries = True

    def __init__(self, model, **windowing):
        super().__init__(model, **windowing)
        self.followers = {}

    def counted(self, history):
        return self.followers.get(history, torch.zeros(self.model.config.vocabulary_size))

    @torch.no_grad()
    def predict(self, seen, chunk):
        ids = seen.tolist()
        rows = [self.counted(tuple(ids[max(target - LAST, 0) : target])) for target in range(chunk[0].first, chunk[-1].last + 1)]
        return super().predict(seen, chunk) + torch.log1p(torch.stack(rows))

    def learn(self, seen, chunk):
        ids = seen.tolist()
        for target in range(chunk[0].first, chunk[-1].last + 1):
            history = tuple(ids[max(target - LAST, 0) : target])
            self.followers[history] = self.counted(history).clone()
            self.followers[history][ids[target]] += 1
