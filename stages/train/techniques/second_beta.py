"""Adam for vectors and scales with a longer second beta and without bias correction.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g²;   w <- w - rate m / (sqrt(v) + eps)

for every parameter of the group `scalars`. Without the correction the first step is (1 - b1) / sqrt(1 - b2) times as large as Adam's: twice
with .8 and .99. Source: modded-nanogpt track 3, #44 (b1 .8, b2 .99 for gains of norms, eps 1e-10).
"""

from dataclasses import dataclass, replace

from stages.lib.node.params import Decay, Positive
from stages.train import techniques


@dataclass(frozen=True)
class Options:
    beta1: Decay
    beta2: Decay
    epsilon: Positive


class Technique(techniques.Technique):
    def grouped(self, groups: list) -> list:
        chosen = self.options
        own = {"beta1": chosen.beta1, "beta2": chosen.beta2, "epsilon": chosen.epsilon, "is_corrected": False}
        return [replace(group, **own) if group.name == "scalars" else group for group in groups]
