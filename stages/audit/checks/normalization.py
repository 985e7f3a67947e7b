"""T4: every row is a probability distribution over the full vocabulary, and the score is its entry for the target.

In sampled rows of the probe and in every row of the replay, Σ_a p(a) must be 1 within 1e-6 and all entries must be finite. In the probe,
the committed score must equal -log p(target). Catches scores that were never part of a distribution (hashed n-gram caches, byte mixtures).
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict

PROVES = "The rows looked at are distributions over the whole vocabulary, and each score is its target's entry."
CANNOT_SEE = "Rows that were not looked at."
PRECEDENT = "Condition C2; hashed n-gram caches disallowed because they do not renormalize (organizers, #677, #779, #982, 27 Mar 2026)"
TOLERANCE = 1e-6


def check(evidence: Evidence) -> Verdict:
    base, replay = evidence.probes[0], evidence.replay
    excess = [abs(float(np.exp(row).sum()) - 1.0) for row in base.rows.values()]
    mismatch = [abs(float(row[int(evidence.tokens[t])]) + float(base.nats[t - 1])) for t, row in base.rows.items()]
    complete = all(row.shape == (evidence.text.vocabulary_size,) and np.isfinite(row).all() for row in base.rows.values())
    largest = max(*excess, *mismatch, float(replay.sums.max(initial=0.0)))
    return Verdict(
        "pass" if complete and replay.is_complete and largest <= TOLERANCE else "fail",
        {
            "rows": len(base.rows),
            "largest_deviation_of_sum": max(excess),
            "largest_mismatch_nats": max(mismatch),
            "rows_of_the_replay": len(replay.sums),
            "largest_deviation_of_sum_in_the_replay": float(replay.sums.max(initial=0.0)),
            "all_finite_over_full_vocabulary": bool(complete and replay.is_complete),
        },
        positions=len(base.rows) + len(replay.sums),
        largest_deviation=largest,
    )
