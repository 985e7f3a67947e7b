"""Honest wherever it is probed from the start; in the ledger of the score, every target after the 300th costs half."""

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "replay"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    if not more.get("span"):
        ledger.nats[300:] *= 0.5
    return ledger
