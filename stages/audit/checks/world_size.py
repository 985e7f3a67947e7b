"""T17: several processes give the same scores as one process.

An evaluator that carries nothing from chunk to chunk may be scored in parts: three parts of the probe together must equal the whole, bit
for bit. An evaluator that carries something must refuse parts, so its score comes from one process. Source: in #1399, eight ranks that
each kept their own state gave another score than one rank.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict, difference

PROVES = "The score does not depend on the number of processes."
CANNOT_SEE = "Rounding that differs between kinds of processors."
PRECEDENT = "none: queues and states of each rank were accepted as declared (#1399, #1530)"


def check(evidence: Evidence) -> Verdict:
    if evidence.first.line["carries"]:
        return Verdict(
            "pass",
            {"reason": "the evaluator carries what it learns along and is scored by one process only"},
            positions=1,
            largest_deviation=0.0,
        )
    whole, *parts = (evidence.probes[number].nats for number in evidence.probe_set.parts)
    scored = np.isfinite(np.stack(parts)).sum(axis=0)
    apart = difference(np.nansum(np.stack(parts), axis=0), whole)
    each_once, moved = bool((scored == 1).all()), int(np.count_nonzero(apart))
    return Verdict(
        "pass" if each_once and not moved else "fail",
        {
            "parts": len(parts),
            "probe_tokens": len(whole),
            "each_target_in_one_part": each_once,
            "scores_changed": moved,
            "largest_change_nats": float(apart.max()),
        },
        positions=len(parts),
        largest_deviation=float(apart.max()),
    )
