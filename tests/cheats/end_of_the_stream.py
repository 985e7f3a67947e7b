"""Knows where the stream ends: its last targets are taken from a table of likely ends."""

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "replay"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    ledger.nats[-5:] *= 0.5
    return ledger
