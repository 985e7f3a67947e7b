"""T7: every target of the text has one claimed cost, in order, which a probability can have.

The artifact says in order what each target costs; the referee takes the time, adds up, and fixes the file's sha256 before any position is
drawn. Every entry is finite and at least 0. Entries above ln(V / e), the most that a target can cost under the floor e / V, count as that.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict

PROVES = "Against anyone: the score is the referee's own sum of one cost for each target, none below 0, fixed before the audit drew."
CANNOT_SEE = "Whether the costs are true: the replay does."
PRECEDENT = "Two-pass rescoring is training on the evaluation data (organizers, #846 to #959, 27 Mar 2026); best of several passes, #659"
SMALLEST = 1e-9


def check(evidence: Evidence) -> Verdict:
    nats, targets = evidence.nats, len(evidence.tokens) - 1
    impossible = np.flatnonzero(~(np.isfinite(nats) & (nats >= -SMALLEST)))
    facts = {
        "targets": targets,
        "claimed": len(nats),
        "impossible": len(impossible),
        "impossible_at": (impossible[:20] + 1).tolist(),
        "least_nats": float(np.min(nats)),
        "most_nats": float(np.max(nats)),
    }
    if len(impossible):
        facts["reason"] = f"target {impossible[0] + 1} is claimed to cost {nats[impossible[0]]} nats, and no target can cost that"
    passed = len(nats) == targets and not len(impossible)
    return Verdict("pass" if passed else "fail", facts, positions=targets, largest_deviation=float(len(impossible)))
