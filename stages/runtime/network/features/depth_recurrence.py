"""Depth recurrence: a segment of layers runs several times in a row with the same weights, which adds depth but no bytes.

    0 .. first-1, (first .. last) x passes, last+1 .. L-1         e.g. 0..3, 4, 5, 4, 5, 6..10 of #1285: 4 to 5, two passes

In training it switches on when both `start_step` steps and `start_fraction` of the budget are done (0: at once). Outside training it is
always on. Source: parameter-golf #1285 (from step 3000), #1493 and #1855 (3 to 5, three passes, from 0.35).
"""

from torch import nn

from ..config import ModelConfig
from . import require

MAX_PASSES = 64  # so that a damaged header cannot make a list that fills the memory


class Feature(nn.Module):
    """No parameters. `looping` says whether the segment is repeated now."""

    def __init__(self, config: ModelConfig, *, first_layer: int, last_layer: int, passes: int, start_step: int, start_fraction: float):
        super().__init__()
        require(
            first_layer <= last_layer < config.num_layers,
            f"model.features.depth_recurrence takes first_layer <= last_layer < model.num_layers {config.num_layers}, "
            f"not {first_layer} and {last_layer}",
        )
        require(2 <= passes <= MAX_PASSES, f"model.features.depth_recurrence.passes is {passes}; it takes 2 to {MAX_PASSES}")
        require(0 <= start_fraction <= 1, f"model.features.depth_recurrence.start_fraction is {start_fraction}; it takes 0 to 1")
        self.before, self.segment = list(range(first_layer)), list(range(first_layer, last_layer + 1))
        self.after, self.passes = list(range(last_layer + 1, config.num_layers)), passes
        self.start_step, self.start_fraction = start_step, start_fraction
        self.looping = True

    def progress(self, model: nn.Module, *, step: float, fraction: float) -> None:
        self.looping = step >= self.start_step and fraction >= self.start_fraction

    def layers(self) -> list[int]:
        """The physical layers in the order in which they currently run."""
        return self.before + self.segment * (self.passes if self.looping else 1) + self.after
