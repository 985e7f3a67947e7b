"""A harness that shows honest rows and writes down something smaller."""

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "replay"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    ledger.nats *= 0.97
    return ledger
