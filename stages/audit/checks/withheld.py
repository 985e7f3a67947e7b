"""T1: without the target and all that follows, but in the same shapes, the artifact gives the claimed cost, to the last bits.

At a few drawn positions the artifact gets the chunk that scores the target, as for the claim, with everything from the target on replaced
by 0. An honest evaluator then computes the same numbers. Rounding cannot differ, so leaks are seen here that are too weak for the tolerance
of the replay: targets in hash keys, gates that read the target, fits on the scored positions. Source: conditions C1 and C2.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict

PROVES = "Against honest mistakes: at the positions drawn, nothing from the target on moved the target's cost by more than 1e-6 nats."
CANNOT_SEE = "Other positions than the few that were drawn; the replay looks at more of them, and bounds the rest."
PRECEDENT = "Condition C1 of Issue #1017 (28 Mar 2026); word-start and within-word gates of #1420, #2118, #2130 (organizers, 2 May 2026)"
TOLERANCE = 1e-6


def check(evidence: Evidence) -> Verdict:
    found = evidence.whole
    apart = np.abs(found.difference)
    moved = found.positions[~(apart <= TOLERANCE)]
    facts = {
        "positions": len(found.positions),
        "moved": len(moved),
        "moved_at": moved.tolist(),
        "largest_difference_nats": float(apart.max()),
    }
    if len(moved):
        facts["reason"] = f"at {len(moved)} of {len(apart)} targets the cost changes when the target and what follows are withheld"
    return Verdict("fail" if len(moved) else "pass", facts, positions=len(apart), largest_deviation=float(apart.max()))
