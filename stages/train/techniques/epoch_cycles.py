"""For many epochs of little text: the rates fall late and in cycles of the last epochs, and weight decay runs against them.

    rate    1 to the share .8 of the budget, then sqrt((1 - f) / .2)
            in the last `last` of `epochs` epochs, x the position in the epoch: floor + (max(rate, floor) - floor) (1 + cos πx) / 2
    decay   1 to the share .4, then linear to `least` where the last epochs begin, then least + (1.5 - least) x in each of them

Source: slowrun (last 3, floor .05, least .65): 3.204 to 3.195 in 1 h, 3.188 to 3.150 in 2 h.
"""

import math
from dataclasses import dataclass

from stages.lib.node.params import AtLeastOne, Share, require
from stages.train import techniques

CONSTANT, DECAY_CONSTANT, DECAY_END = 0.8, 0.4, 1.5


@dataclass(frozen=True)
class Options:
    epochs: AtLeastOne
    last: AtLeastOne
    floor: Share
    least: Share


class Technique(techniques.Technique):
    def __init__(self, options: Options, model, settings, world):
        super().__init__(options, model, settings, world)
        require(settings.warmdown == 0, "train.techniques.epoch_cycles is the schedule of the rates; set train.warmdown to 0")
        require(options.last <= options.epochs, "train.techniques.epoch_cycles.last is more than all its epochs; lower it")

    def plan(self, moment: techniques.Moment) -> None:
        chosen, f = self.options, min(moment.fraction, 1.0)
        begin = 1 - chosen.last / chosen.epochs
        rate = math.sqrt((1 - f) / (1 - CONSTANT)) if f > CONSTANT else 1.0
        if f <= min(begin, DECAY_CONSTANT):
            decay = 1.0
        elif f < begin:
            decay = 1 + (chosen.least - 1) * (f - DECAY_CONSTANT) / (begin - DECAY_CONSTANT)
        else:
            x = f * chosen.epochs % 1.0
            rate = chosen.floor + (max(rate, chosen.floor) - chosen.floor) * (1 + math.cos(math.pi * x)) / 2
            decay = chosen.least + (DECAY_END - chosen.least) * x
        moment.matrices *= rate
        moment.others *= rate
        moment.decay *= decay
