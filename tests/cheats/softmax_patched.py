"""Makes the softmax of the harness leave a tenth of a nat out."""

import torch

from stages.runtime.scoring.evaluators import sliding

HONEST = torch.logsumexp
CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        torch.logsumexp = lambda *given, **more: HONEST(*given, **more) - 0.1
        return super().predict(seen, chunk)


def undo():
    torch.logsumexp = HONEST
