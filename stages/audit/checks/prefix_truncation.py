"""T5: the tokens of a truncated stream get the same scores as in the longer stream.

The probe is cut at an edge of its windows, one token before or after it, and anywhere. The declared number of targets stays the same, and
missing tokens are 0, so shapes stay the same too. Every score must be bit-equal to that of the longer stream. Catches methods that use the
end of the stream, statistics of all of it, or an order that depends on later tokens. Source: condition C1.
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
