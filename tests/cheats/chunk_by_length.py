"""Short documents are learned in shorter chunks (#2014): a decoder knows a document's length when it has ended."""

import numpy as np

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import ttt_lora
from tests import coding_orders
from tests.test_evaluators import LORA

CAUGHT_BY = "replay"


class Evaluator(ttt_lora.Evaluator):
    def __init__(self, model, **geometry):
        super().__init__(model, **LORA | {"slots": 4})


def score(evaluator, tokens, **more):
    stream = coding_orders.restored(tokens, evaluator.coding_order)
    long, short = (coding_orders.scores(coding_orders.evaluator(slots=4, chunk=chunk), stream) for chunk in (8, 2))
    starts = evaluator.coding_order.starts(stream)
    lengths = np.diff(np.append(starts, len(stream) - 1))
    nats = np.where(np.repeat(lengths, lengths) <= 30, short, long)
    return harness.Ledger(nats[evaluator.coding_order.targets(stream) - 1])
