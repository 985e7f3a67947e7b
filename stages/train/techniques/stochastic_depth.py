"""Stochastic depth: in each step, layer l is skipped with probability rate l / (L - 1). Nothing is scaled for it, here or in evaluation.

A skipped layer's attention and feed-forward part give 0. One draw holds for the whole batch; it depends on the seed and the step alone.
Source: slowrun, rate .05: 3.230 to 3.227.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stages.lib.node.params import Decay
from stages.train import techniques


@dataclass(frozen=True)
class Options:
    rate: Decay


class Technique(techniques.Technique):
    def __init__(self, options: Options, model, settings, world):
        super().__init__(options, model, settings, world)
        self.skipped: set[int] = set()
        for layer, block in enumerate(model.blocks):
            for part in (block.attention, block.mlp):
                if part is not None:
                    part.register_forward_hook(lambda module, inputs, output, layer=layer: self._kept(output, layer))

    def begin_part(self, moment: techniques.Moment, part: int, rows: int) -> None:
        layers = len(self.model.blocks)
        draws = np.random.default_rng([self.settings.seed, moment.step]).random(layers)
        self.skipped = {layer for layer in range(layers) if draws[layer] < self.options.rate * layer / max(layers - 1, 1)}

    def end_parts(self) -> None:
        self.skipped = set()

    def _kept(self, output: Tensor, layer: int) -> Tensor:
        return output * 0.0 if layer in self.skipped else output
