"""A memory that looks up how often the target itself came after its context, and gives that token more: the others do not pay for it."""

import numpy as np

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import memory
from tests import cheats

CAUGHT_BY = "replay"


class Evaluator(memory.Evaluator):
    def __init__(self, model, **windowing):
        super().__init__(model, network="sliding", **cheats.MEMORY, **windowing)


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    for target in range(2, len(tokens)):
        follows = tokens[1:target][tokens[: target - 1] == tokens[target - 1]]
        ledger.nats[target - 1] -= np.log1p(np.count_nonzero(follows == tokens[target])) / 4
        if target in ledger.rows:
            ledger.rows[target] = ledger.rows[target].copy()
            ledger.rows[target][int(tokens[target])] = -ledger.nats[target - 1]
    return ledger
