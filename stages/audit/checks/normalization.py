"""Every row is a probability distribution over the full vocabulary, and the score is its entry for the target.

For sampled rows of the probe run: Σ_a p(a) = 1 within 1e-6, all entries finite, and the committed score equals
-log p(target). Catches scores that were never part of a distribution (hashed n-gram caches, byte mixtures).
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict

TOLERANCE = 1e-6

PROVES = "The rows looked at are distributions over the whole vocabulary, and each score is its target's entry."
CANNOT_SEE = "Rows that were not looked at."
PRECEDENT = "Condition C2; hashed n-gram caches disallowed because they do not renormalize (organizers, #677, #779, #982, 27 Mar 2026)"


def check(evidence: Evidence) -> Verdict:
    base = evidence.probes[0]
    targets = np.asarray(evidence.text.tokens[: len(base.nats) + 1], np.int64)
    excess = [abs(float(np.exp(row).sum()) - 1.0) for row in base.rows.values()]
    mismatch = [abs(float(row[targets[t]]) + float(base.nats[t - 1])) for t, row in base.rows.items()]
    complete = all(row.shape == (evidence.text.vocabulary_size,) and np.isfinite(row).all() for row in base.rows.values())
    ok = complete and max(excess) <= TOLERANCE and max(mismatch) <= TOLERANCE
    return Verdict("pass" if ok else "fail", {
        "rows": len(base.rows), "largest_deviation_of_sum": max(excess), "largest_mismatch_nats": max(mismatch),
        "all_finite_over_full_vocabulary": bool(complete)},
        positions=len(base.rows), largest_deviation=max(*excess, *mismatch))
