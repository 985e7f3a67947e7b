"""No score depends on its own target or on anything after it.

Token j is changed, and in every second probe all later tokens too. Every committed score before j, and the whole
distribution for target j, must be bit-equal to the unchanged run. Catches SLOT on scored targets, deltas shared over
overlapping windows, two-pass scoring. Cannot see a leak that none of the probed positions touches.
Source: tests T1 and T2 of the reference; PR #1240's perturbation proof, made exact.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict

PROVES = "No score depended on its own target or on a later token, to the last bit, at the positions that were changed."
CANNOT_SEE = "A leak that none of the changed positions touches, and an artifact that behaves otherwise on the probe streams."
PRECEDENT = "Conditions C1 and C3 (Issue #1017, 28 Mar 2026; recommended by the organizers in #677, 27 Mar); proof of PR #1240, made exact"


def check(evidence: Evidence) -> Verdict:
    base, *changed = evidence.probes
    moved, largest, rows_moved = 0, 0.0, 0
    compared = 0
    for flip, result in zip(evidence.flips, changed, strict=True):
        before = slice(0, flip.position - 1)  # nats[t-1] belongs to target t
        difference = np.abs(result.nats[before] - base.nats[before])
        moved += int(np.count_nonzero(difference))
        compared += difference.size
        row = np.abs(result.rows[flip.position] - base.rows[flip.position])
        rows_moved += int(row.any())
        largest = max(largest, float(difference.max(initial=0.0)), float(row.max()))
    return Verdict("fail" if moved or rows_moved else "pass", {
        "flips": len(changed), "positions": [flip.position for flip in evidence.flips], "probe_tokens": len(base.nats),
        "earlier_scores_compared": compared, "earlier_scores_changed": moved, "rows_compared": len(changed),
        "rows_changed": rows_moved, "largest_change_nats": largest},
        positions=len(changed), largest_deviation=largest)
