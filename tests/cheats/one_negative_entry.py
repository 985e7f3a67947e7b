"""One target pays for all the others: it is claimed to cost less than nothing."""

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "claim"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    ledger.nats[len(ledger.nats) * 2 // 3] = -1.0 * len(tokens)
    return ledger
