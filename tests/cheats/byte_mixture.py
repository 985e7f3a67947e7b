"""Spreads a token over its bytes and mixes those: no distribution over tokens (#1785 to #2098)."""

import numpy as np

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators.sliding import Evaluator

__all__ = ["Evaluator", "score"]
CAUGHT_BY = "replay"


def score(evaluator, tokens, **more):
    ledger = harness.score(evaluator, tokens, **more)
    sizes = 1 + np.arange(50) % 4
    ledger.rows = {target: mixed(row, sizes) for target, row in ledger.rows.items()}
    ledger.nats = -mixed(-ledger.nats, sizes[np.asarray(tokens[1:])])
    return ledger


def mixed(logp, sizes):
    return sizes * np.log(0.9 * np.exp(logp / sizes) + 0.1 / 4)
