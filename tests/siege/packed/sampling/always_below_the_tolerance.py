"""Claims 0.0049 nats less than it needs, for each target."""

from .. import harness
from . import sliding

CLAIMS = sliding.CLAIMS
honest = harness._commit


def commit(ledger, logits_RV, targets_R, first, wanted):
    honest(ledger, logits_RV, targets_R, first, wanted)
    part = ledger.nats[first - 1 : first - 1 + len(targets_R)]
    part[:] = (part - 0.0049).clip(min=0)


harness._commit = commit
Evaluator = sliding.Evaluator
