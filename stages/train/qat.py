"""Rounding in the forward pass, late in training, so that the weights move to values that the quantizer can represent well.

Per row s = max(max|w| / q, min_step), q = 2^(bits-1) - 1, n = w / s:

    straight_through   w' = s clamp(round(n), -q - 1, q)                               gradient as if w' were w
    soft_round         w' = s clamp(floor(n) + σ(a (n - floor(n) - 1/2)), -q, q)       true gradient, also through s; a from 1 to 16
                                                                                       linearly over ramp_steps

It starts at the first step, not before `earliest_step`, at which the schedule's scale is below `threshold`. `scope`: all linear layers
(#1089), or only the features' projections, which is what #549's family ran, because its other weights were in banks that bypass it. Only
training steps round; holdout measurements and averages use the weights without rounding.
"""

# M rows, K columns

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.runtime.network import gpt
from stages.train.settings import Quantization

SHARPNESS = (1.0, 16.0)  # sharpness of soft_round at the start and from the end of the ramp on (#1172)


def straight_through(weight_MK: Tensor, *, bits: int, min_step: float) -> Tensor:
    """The weight rounded to the grid of its row, with the identity as gradient."""
    limit = 2 ** (bits - 1) - 1
    with torch.no_grad():
        step_M1 = (weight_MK.abs().amax(dim=1, keepdim=True) / limit).clamp(min=max(min_step, 1e-12))
        rounded_MK = (weight_MK / step_M1).round().clamp(-limit - 1, limit) * step_M1
    return weight_MK + (rounded_MK - weight_MK).detach()


def soft_round(weight_MK: Tensor, sharpness: Tensor, *, bits: int, min_step: float) -> Tensor:
    """The weight pulled towards the grid of its row, harder for a larger sharpness (a tensor, so that changing it does not recompile)."""
    limit = 2 ** (bits - 1) - 1
    step_M1 = (weight_MK.abs().amax(dim=1, keepdim=True) / limit).clamp(min=max(min_step, 1e-12))
    codes_MK = weight_MK / step_M1
    below_MK = codes_MK.floor().detach()
    return step_M1 * (below_MK + torch.sigmoid(sharpness * (codes_MK - below_MK - 0.5))).clamp(-limit, limit)


class Rounding:
    """The rounding of one model's linear layers. A checkpoint must hold `started_at`."""

    def __init__(self, model: gpt.GPT, settings: Quantization):
        self.settings, self.started_at, self.is_rounding = settings, None, False
        self.sharpness = torch.tensor(SHARPNESS[0], device=next(model.parameters()).device)
        self.layers = (
            {}
            if settings.form == "none"
            else {
                name: layer for name, layer in gpt.matrices(model).items() if settings.scope == "matrices" or not name.startswith("blocks.")
            }
        )
        # created once, because a compiled loss is compiled again for every new function
        self.forwards = {name: self._forward(layer) for name, layer in self.layers.items()}
        if settings.form != "none" and not self.layers:
            raise ValueError(
                f"train.qat.scope is {settings.scope}, but the model has no such layer; set it to matrices, or train.qat.form to none"
            )

    def progress(self, step: int, scale: float) -> None:
        """Call before each step: starts the rounding when its condition is met, and increases the sharpness."""
        if not self.layers:
            return
        if self.started_at is None and scale < self.settings.threshold and step >= self.settings.earliest_step:
            self.started_at = step
        if self.started_at is not None:
            done = min((step - self.started_at) / max(self.settings.ramp_steps, 1), 1.0)
            self.sharpness.fill_(SHARPNESS[0] + (SHARPNESS[1] - SHARPNESS[0]) * done)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Inside the block, the layers round in the forward pass, if the rounding has started."""
        if self.started_at is None:
            yield
            return
        for name, layer in self.layers.items():
            layer.forward = self.forwards[name]
        try:
            yield
        finally:
            for layer in self.layers.values():
                del layer.forward

    def _forward(self, layer: nn.Linear):
        return lambda x: F.linear(x, self.rounded(layer.weight), layer.bias)

    def rounded(self, weight_MK: Tensor) -> Tensor:
        options = {"bits": self.settings.bits, "min_step": self.settings.min_step}
        if self.settings.form == "straight_through":
            return straight_through(weight_MK, **options)
        return soft_round(weight_MK, self.sharpness, **options)
