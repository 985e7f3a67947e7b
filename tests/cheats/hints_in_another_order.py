"""Two orders: its hints come from all that stands before a target in the stream, of which much is coded later (#2135)."""

import numpy as np
import torch

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import ttt_lora
from tests.coding_orders import restored
from tests.test_evaluators import LORA

CAUGHT_BY = "replay"


class Evaluator(ttt_lora.Evaluator):
    hints = None

    def __init__(self, model, **geometry):
        super().__init__(model, **LORA | {"slots": 4})

    def predict(self, seen, pieces):
        logits_RV = super().predict(seen, pieces)
        if self.hints is not None:
            logits_RV.scatter_add_(1, self.hints[pieces[0].first : pieces[-1].last + 1, None], torch.full((len(logits_RV), 1), 2.0))
        return logits_RV


def score(evaluator, tokens, **more):
    stream, follows, hints = restored(tokens, evaluator.coding_order), {}, [0]
    for last, token in zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True):
        hints.append(follows.get(last, 0))
        follows[last] = token
    evaluator.hints = torch.tensor(hints)[np.append(0, evaluator.coding_order.targets(stream))]
    return harness.score(evaluator, tokens, **more)
