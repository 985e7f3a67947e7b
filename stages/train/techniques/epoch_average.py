"""The average of the weights at the ends of the last epochs, later ones weighing more: epoch_average = Σ i θ_i / Σ i, i = 1 .. last.

An epoch ends where the budget's share crosses k / epochs. `ema.average: epoch_average` takes the result, one model of the usual size.
Source: slowrun, last 4: 3.353 to 3.345.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.lib.node.params import AtLeastOne, require
from stages.train import techniques
from stages.train.optim import kept


@dataclass(frozen=True)
class Options:
    epochs: AtLeastOne
    last: AtLeastOne


class Technique(techniques.Technique):
    def __init__(self, options: Options, model, settings, world):
        super().__init__(options, model, settings, world)
        require(options.last <= options.epochs, "train.techniques.epoch_average.last is more than all its epochs; lower it")

    def plan(self, moment: techniques.Moment) -> None:
        ended = int(moment.fraction * self.options.epochs) - (self.options.epochs - self.options.last)
        taken = self.tensors.setdefault("taken", torch.zeros((), dtype=torch.int64))
        if ended > int(taken):
            taken.fill_(ended)
            self._take(kept.copies(self, "average"), ended)

    @torch.no_grad()
    def _take(self, average: dict[str, Tensor], number: int) -> None:
        torch._foreach_lerp_(list(average.values()), kept.now(self), 2 / (number + 1))

    def averages(self) -> dict[str, dict[str, Tensor]]:
        average = {name: tensor.clone() for name, tensor in kept.copies(self, "average").items()}
        self._take(average, self.options.last)
        return {"epoch_average": average}
