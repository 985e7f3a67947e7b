"""Scores everything twice and keeps the smaller number of each target; its log says so."""

import numpy as np

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "replay"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    scale, predict = 0.7, evaluator.predict
    evaluator.predict = lambda seen, chunk: predict(seen, chunk) * scale
    second = harness.score(evaluator, tokens, **more)
    ledger.nats = np.minimum(ledger.nats, second.nats)
    return ledger
