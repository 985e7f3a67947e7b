"""A tilt towards rare tokens that is only there where the target is one (#1420, #2118)."""

from stages.runtime.scoring.evaluators import sliding

CAUGHT_BY = "replay"


class Evaluator(sliding.Evaluator):
    def predict(self, seen, chunk):
        logits_RV = super().predict(seen, chunk)
        targets_R = seen[chunk[0].first : chunk[-1].last + 1]
        gate_R1 = (targets_R > 40).float()[:, None]
        logits_RV[:, 41:] += 0.4 * gate_R1
        return logits_RV
