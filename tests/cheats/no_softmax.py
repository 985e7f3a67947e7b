"""A harness that takes nine tenths of the normalizer."""

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "replay"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    ledger.nats *= 0.9
    ledger.rows = {target: row * 0.9 for target, row in ledger.rows.items()}
    return ledger
