"""T8: token by token, without later tokens, the artifact needs as many nats as its ledger states.

The replay's excess over the ledger is measured at the first targets and at positions drawn from all of val. No excess may be beyond 0.005
nats, and their mean may not be beyond 0.0002 (batch and stream differ by rounding). The score was computed from this same ledger, so an
artifact that cheats only when it is scored, and not when it is audited, shows its gain as an excess.
"""

import numpy as np

from stages.audit import power, replay
from stages.audit.evidence import Evidence, Verdict

PROVES = "At the positions replayed, the score is what the artifact needs when it cannot know the target or anything after it."
CANNOT_SEE = "Positions that were not replayed, and none are beyond `drawn_from_the_first`; what a sample misses is under `power`."
PRECEDENT = "The coding argument of #1017 and #1172: what a decoder cannot compute is no code length"


def check(evidence: Evidence) -> Verdict:
    found = evidence.replay
    wrong = found.off
    mean = float(found.excess.mean())
    ok = not wrong.any() and abs(mean) <= replay.MEAN and found.finished
    return Verdict(
        "pass" if ok else "fail",
        {
            "replayed": len(found.positions),
            "first": int(found.positions[0]),
            "last": int(found.positions[-1]),
            "drawn_from_the_first": found.reach,
            "of_targets": len(evidence.tokens) - 1,
            "off": int(wrong.sum()),
            "off_at": found.positions[wrong][:20].tolist(),
            "largest_difference_nats": float(np.abs(found.excess).max()),
            "mean_excess_nats": mean,
            "ended_early": not found.finished,
            "power": power.facts(len(found.positions), evidence.metrics["bits_per_byte"]),
        },
        positions=len(found.positions),
        largest_deviation=float(np.abs(found.excess).max()),
    )
