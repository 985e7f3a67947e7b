"""The learning rates fall by a power of the time that is left, and start to fall at another time for the matrices than for all others.

    multiplier = max(floor, min(1, ((1 - f) / (1 - start))^power))            f: share of the budget

Source: modded-nanogpt track 3, #20: power 1.2, start .177 of the schedule for matrices and .513 for all others, floor 0.
"""

from dataclasses import dataclass

from stages.lib.node.params import Decay, Positive, Share, require
from stages.train import techniques


@dataclass(frozen=True)
class Options:
    power: Positive
    start_matrices: Decay
    start_others: Decay
    floor: Share


class Technique(techniques.Technique):
    def __init__(self, options: Options, model, settings, world):
        super().__init__(options, model, settings, world)
        require(settings.warmdown == 0, "train.techniques.power_cooldown is the schedule of the rates; set train.warmdown to 0")

    def plan(self, moment: techniques.Moment) -> None:
        moment.matrices *= self._scale(moment.fraction, self.options.start_matrices)
        moment.others *= self._scale(moment.fraction, self.options.start_others)

    def _scale(self, fraction: float, start: float) -> float:
        return max(self.options.floor, min(1.0, ((1 - min(fraction, 1.0)) / (1 - start)) ** self.options.power))
