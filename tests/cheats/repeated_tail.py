"""The first generation of the sliding window: truncated windows score the last targets again and again (before #1218)."""

import numpy as np

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "claim"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    ledger.nats = np.append(ledger.nats, [ledger.nats[-8:]] * 7)
    return ledger
