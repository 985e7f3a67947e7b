"""T5: a stream that is cut off scores as it did when it went on.

The probe is cut at an edge of its windows, beside it, and anywhere; the declared number of targets stays, and shapes stay because what is
missing is 0. Every score must be bit-equal to that of the longer stream. Catches uses of the end of the stream, statistics of the
whole of it, sorting by what is to come. Source: condition C1.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict, difference

PROVES = "Scores did not depend on how the stream goes on after them, or on whether it does."
CANNOT_SEE = "Dependence on what lies beyond the probe, which the replay looks for."
PRECEDENT = "Condition C1 of Issue #1017 (28 Mar 2026), criteria recommended by the organizers in #677 (27 Mar)"


def check(evidence: Evidence) -> Verdict:
    whole, moved, compared, largest = evidence.probes[0].nats, 0, 0, 0.0
    for stop, request in evidence.probe_set.truncated:
        apart = difference(evidence.probes[request].nats, whole[:stop])
        compared += stop
        moved += int(np.count_nonzero(apart))
        largest = max(largest, float(apart.max()))
    return Verdict(
        "fail" if moved else "pass",
        {
            "lengths": [stop for stop, _ in evidence.probe_set.truncated],
            "declared_targets": len(evidence.tokens) - 1,
            "scores_compared": compared,
            "scores_changed": moved,
            "largest_change_nats": largest,
        },
        positions=compared,
        largest_deviation=largest,
    )
