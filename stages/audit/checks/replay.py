"""T8: with the target withheld, the artifact needs as many nats as it claimed.

Positions are drawn after the claim was fixed, from random numbers that the certificate records, in proportion to what could be gained
there. At each, the artifact gives its whole distribution before it is told the target. The referee normalizes the distribution itself. No
difference may exceed 0.005 nats, which is rounding. From the same differences follows X, the most that the score can really be
(stages/audit/bound.py).
"""

import numpy as np

from stages.audit import bound
from stages.audit.evidence import Evidence, Verdict

PROVES = (
    "Against anyone: the whole score is at most X, with 99 % confidence, for distributions over the full vocabulary that were given before "
    "the target was known."
)
CANNOT_SEE = "A gain smaller than X minus the claim; `make certify` leaves none. Someone who repeats the audit until a draw suits them."
PRECEDENT = "The coding argument of #1017 and #1172: what a decoder cannot compute is no code length; conditions C1 to C3 of #1017"


def check(evidence: Evidence) -> Verdict:
    found = evidence.replay
    wrong, most = found.off, found.most_nats(evidence.nats)
    facts = {
        "drawn": len(found.drawn),
        "replayed": len(found.positions),
        "first": int(found.positions[0]),
        "last": int(found.positions[-1]),
        "drawn_from_the_first": found.reach,
        "of_targets": len(evidence.nats),
        "off": int(wrong.sum()),
        "off_at": found.positions[wrong][:20].tolist(),
        "largest_difference_nats": float(np.abs(found.excess).max()),
        "mean_excess_nats": float(found.excess.mean()),
        "floor_share": found.floor.share,
        "most_nats_per_target": found.floor.most_nats,
        "at_most_bits_per_byte": None if most is None else (most / np.log(2) + bound.LENGTH_BITS) / evidence.metrics["bytes"],
        "ended_early": not found.finished,
    }
    passed = not wrong.any() and found.finished
    if wrong.any():
        facts["reason"] = (
            f"at {int(wrong.sum())} of {len(found.positions)} replayed targets it needs other nats than it claimed, "
            f"{float(found.excess[wrong].mean()):+.3f} on average: it used what a decoder does not know, or it does not repeat itself"
        )
    elif most is None:
        facts["reason"] = f"not ruled beyond target {found.reach:,} of {len(evidence.nats):,}; set audit.replay_reach to null"
    return Verdict(
        "fail" if not passed else "not_applicable" if most is None else "pass",
        facts,
        positions=len(found.positions),
        largest_deviation=facts["largest_difference_nats"],
    )
