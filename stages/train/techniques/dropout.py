"""Dropout on the output of each attention and each feed-forward part, before it is added to the stream.

    y <- y m / (1 - rate),   m = 0 with probability rate, else 1, drawn for each number

The masks of a row depend on the seed, the step, the row and the place alone, so they are the same for any number of processes and parts.
They are drawn on the CPU. Source: slowrun, rate .1; no measurement of it alone was found.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.lib.node.params import Decay
from stages.train import techniques


@dataclass(frozen=True)
class Options:
    rate: Decay


class Technique(techniques.Technique):
    def __init__(self, options: Options, model, settings, world):
        super().__init__(options, model, settings, world)
        self.rows: list[list[int]] | None = None
        for block in model.blocks:
            for part in (block.attention, block.mlp):
                if part is not None:
                    part.register_forward_hook(self._dropped)

    def begin_part(self, moment: techniques.Moment, part: int, rows: int) -> None:
        first = part * rows
        self.rows = [[self.settings.seed, moment.step, (first + row) * self.world.size + self.world.rank] for row in range(rows)]
        self.place = 0

    def end_parts(self) -> None:
        self.rows = None

    def _dropped(self, module, inputs, output: Tensor) -> Tensor:
        if self.rows is None or not self.options.rate:
            return output
        masks = [np.random.default_rng([*row, self.place]).random(output.shape[1:], np.float32) >= self.options.rate for row in self.rows]
        self.place += 1
        return output * torch.from_numpy(np.stack(masks)).to(output) / (1 - self.options.rate)
