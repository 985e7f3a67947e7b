"""T6: an evaluator that uses the declared length of the stream claims so, and is charged for it.

The same probe is scored twice: declared as long as val, and as twice that long. A decoder can be told this one number, so an evaluator may
use it (rates that follow a cosine over all chunks) if it claims `uses_length`; it then pays 32 bits. Without the claim no score may move.
"""

import numpy as np

from stages.audit.evidence import Evidence, Verdict, difference

PROVES = "On the probe, no score depends on the declared number of targets, or the evaluator says so and its bits are charged."
CANNOT_SEE = "A dependence that begins after the probe; then the claim is missing, which costs 32 bits at most."
PRECEDENT = "none: rates over the length of the stream were merged (#549, #1493) without a word on it"
BITS = 32


def check(evidence: Evidence) -> Verdict:
    apart = difference(evidence.probes[evidence.probe_set.longer].nats, evidence.probes[0].nats)
    moved, claimed = int(np.count_nonzero(apart)), "uses_length" in evidence.metrics["claims"]
    largest = float(apart.max())
    declared = len(evidence.tokens) - 1
    return Verdict(
        "fail" if moved and not claimed else "pass",
        {
            "declared": [declared, 2 * declared],
            "scores_compared": len(apart),
            "scores_changed": moved,
            "largest_change_nats": largest,
            "claims_to_use_the_length": claimed,
            "bits_charged": BITS if claimed else 0,
            "bits_per_byte_charged": BITS / evidence.metrics["bytes"] if claimed else 0.0,
        },
        positions=len(apart),
        largest_deviation=largest,
    )
