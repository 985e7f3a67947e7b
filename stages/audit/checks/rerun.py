"""T16: the same stream gives the same scores in another process, a second time in the same process, and in the ledger of the score.

The unchanged probe is scored at the start and at the end of the process that scores the probes, and in a separate process; all three must
be bit-equal. The ledger may come from another machine, so it is compared within the tolerance of the replay; so are the targets of the
last, incomplete chunk. Catches use of the clock, unseeded random numbers, data kept on disk or in the process from one run to the next,
and a ledger that something else made.
"""

import numpy as np

from stages.audit import replay
from stages.audit.evidence import Evidence, Verdict, difference

PROVES = "The artifact repeats itself bit for bit on the probe, and its ledger begins with what it says now."
CANNOT_SEE = "Differences that begin after the probe."
PRECEDENT = "Condition C1: nothing from outside the artifact (Issue #1017, 28 Mar 2026); one set-up for all seeds (#2124, 2 May)"


def check(evidence: Evidence) -> Verdict:
    base = evidence.probes[0].nats
    again = [difference(other.nats, base) for other in (evidence.first, evidence.probes[evidence.probe_set.again])]
    ledger = difference(np.asarray(evidence.nats[: len(base)]), base)
    moved = [int(np.count_nonzero(apart)) for apart in again]
    ok = not any(moved) and float(ledger.max()) <= replay.PER_TOKEN and float(ledger.mean()) <= replay.MEAN
    return Verdict(
        "pass" if ok else "fail",
        {
            "probe_tokens": len(base),
            "changed_in_another_process": moved[0],
            "changed_in_the_same_process": moved[1],
            "largest_difference_to_the_ledger_nats": float(ledger.max()),
            "ledger_is_bit_equal": not ledger.any(),
        },
        positions=3 * len(base),
        largest_deviation=max(float(apart.max()) for apart in (*again, ledger)),
    )
