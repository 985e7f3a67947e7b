"""Claims half of the nats for all targets but one of twenty, for which it claims the most, where no room is left and nothing is drawn."""

from .. import harness
from . import sliding

CLAIMS = sliding.CLAIMS
honest = harness._commit


def commit(ledger, logits_RV, targets_R, first, wanted):
    honest(ledger, logits_RV, targets_R, first, wanted)
    for target in range(first, first + len(targets_R)):
        ledger.nats[target - 1] = 12.0 if target % 20 == 3 else ledger.nats[target - 1] / 2


harness._commit = commit
Evaluator = sliding.Evaluator
