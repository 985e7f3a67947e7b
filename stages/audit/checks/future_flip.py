"""T1: no score depends on anything after its target.

Token j of the probe is changed, and in every second probe all later tokens too. Every committed score before j must be bit-equal. The
positions j are taken in turn from the edges of batches and windows, the middle of a window inside a batch, document starts and ends, and
anywhere. If an evaluator carries nothing from chunk to chunk, chunks from anywhere in val are tested too. Catches SLOT on scored targets,
fits shared over overlapping windows, two passes. Source: condition C1; PR #1240's perturbation proof, made exact and extended over windows.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict, difference

PROVES = "Changing a token, or all tokens from it on, moved no earlier score by a single bit."
CANNOT_SEE = "A leak whose reach holds none of the changed tokens, and an artifact that behaves otherwise on the probe streams."
PRECEDENT = "Condition C1 of Issue #1017 (28 Mar 2026), criteria recommended by the organizers in #677 (27 Mar); proof of PR #1240"


def check(evidence: Evidence) -> Verdict:
    compared = moved = probes_moved = 0
    largest = 0.0
    for flip in evidence.probe_set.flips:
        before = slice(0, flip.position - 1)  # nats[t-1] belongs to target t
        now, then = evidence.probes[flip.request].nats[before], evidence.probes[flip.unchanged].nats[before]
        scored = ~np.isnan(then)  # for a chunk from the middle of val, only its own targets were scored
        apart = difference(now[scored], then[scored])
        compared += apart.size
        moved += int(np.count_nonzero(apart))
        probes_moved += int(apart.any())
        largest = max(largest, float(apart.max(initial=0.0)))
    flips = evidence.probe_set.flips
    return Verdict(
        "fail" if moved else "pass",
        {
            "flips": len(flips),
            "flips_of_the_whole_future": sum(flip.whole_future for flip in flips),
            "positions": [flip.position for flip in flips],
            "places": [flip.kind for flip in flips],
            "probe_tokens": evidence.probe_length,
            "earlier_scores_compared": compared,
            "earlier_scores_changed": moved,
            "flips_that_moved_something": probes_moved,
            "largest_change_nats": largest,
        },
        positions=len(flips),
        largest_deviation=largest,
    )
