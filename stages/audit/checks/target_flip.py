"""T2: the distribution for a target does not depend on the target.

The prefix stays the same and token j is replaced: the whole row for j, over all of the vocabulary, must be bit-equal. Catches targets in
hash keys, gates that read the target, fits on the scored position itself. Source: conditions C1 and C2 (p_t is fixed before x_t is known).
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict, difference

PROVES = "At the changed positions the whole distribution was the same, bit for bit, for one target and for another."
CANNOT_SEE = "A position that looks at its own target and is not among those changed; the replay looks at more of them."
PRECEDENT = "Word-start and within-word gates of #1420, #2118, #2130: rejected for looking at the target (organizers, 2 May 2026)"


def check(evidence: Evidence) -> Verdict:
    moved, largest = [], 0.0
    for flip in evidence.probe_set.flips:
        row, other = (evidence.probes[number].rows[flip.position] for number in (flip.unchanged, flip.request))
        if not np.array_equal(row, other):
            moved.append(flip.position)
            largest = max(largest, float(difference(row, other).max()))
    return Verdict(
        "fail" if moved else "pass",
        {"rows_compared": len(evidence.probe_set.flips), "rows_changed": len(moved), "changed_at": moved, "largest_change_nats": largest},
        positions=len(evidence.probe_set.flips),
        largest_deviation=largest,
    )
