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
    def plan(self, moment: techniques.Moment) -> None:
        self.steps = moment.step + 1

    def grouped(self, groups: list) -> list:
        return [replace(group, adjust=self._adjust) if group.name == "scalars" else group for group in groups]

    def _adjust(self, group: dict) -> None:
        """torch always corrects by c1 = 1 - b1^t and c2 = 1 - b2^t. Other options take it back: its update of rate r and epsilon e is
        r (m / c1) / (sqrt(v / c2) + e) = r sqrt(c2) / c1 m / (sqrt(v) + e sqrt(c2))."""
        chosen = self.options
        first, second = 1 - chosen.beta1**self.steps, (1 - chosen.beta2**self.steps) ** 0.5
        group["betas"], group["eps"] = (chosen.beta1, chosen.beta2), chosen.epsilon / second
        group["lr"] *= first / second
        group["weight_decay"] = self.settings.scalar_weight_decay * second / first
