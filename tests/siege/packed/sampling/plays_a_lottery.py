"""Peeks at a tenth of all targets, and claims the most for others that cost nothing: drawing one of those would win all back."""

from .. import harness
from . import sliding

CLAIMS = sliding.CLAIMS
honest = harness._commit


def commit(ledger, logits_RV, targets_R, first, wanted):
    honest(ledger, logits_RV, targets_R, first, wanted)
    for target in range(first, first + len(targets_R)):
        if target % 10 == 7:
            ledger.nats[target - 1] = 0.0
        elif ledger.nats[target - 1] < 0.01:
            ledger.nats[target - 1] = 9.5


harness._commit = commit
Evaluator = sliding.Evaluator
