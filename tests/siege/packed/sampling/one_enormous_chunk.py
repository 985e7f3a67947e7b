"""One chunk for the whole text, from which it takes the counts of all targets before it scores the first; with `whole` it has none."""

import torch

from . import sliding

CLAIMS = sliding.CLAIMS


class Evaluator(sliding.Evaluator):
    carries = True

    def chunks(self, num_targets):
        yield [window for chunk in super().chunks(num_targets) for window in chunk]

    def predict(self, seen, chunk):
        logits_RV = torch.cat(
            [super(Evaluator, self).predict(seen, chunk[i : i + self.batch]).detach() for i in range(0, len(chunk), self.batch)]
        )
        counts_V = torch.bincount(seen[chunk[0].first : chunk[-1].last + 1], minlength=logits_RV.size(1)) + 0.5
        return logits_RV + 0.5 * torch.log(counts_V / counts_V.sum())
