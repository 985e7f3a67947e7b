"""Value residual: later layers mix the first layer's values into their own.

    blend (#549):   v <- λ0_l v_first + λ1_l v        both start at 0.5
    add (#1019):    v <- v + σ(α_l) v_first           α starts at 0

v_first are the values of the first layer that runs, after all changes there. This layer itself is not mixed, so its row of the parameter
is never used. Source: arXiv:2410.17897; parameter-golf #549 and #1019, off in both published runs.
"""

# B batch, T time, G key/value heads, K head width, L layers

from typing import Literal

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass, require


class Feature(nn.Module):
    """Parameter: weight, (L, 2) for blend and (L) for add."""

    def __init__(self, config: ModelConfig, *, form: Literal["blend", "add"]):
        super().__init__()
        require(config.num_layers >= 2, "model.features.value_residual needs model.num_layers of 2 or more")
        self.form = form
        self.weight = nn.Parameter(torch.empty((config.num_layers, 2) if form == "blend" else (config.num_layers,)))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.fill_(0.5 if self.form == "blend" else 0.0)

    def value(self, v_BTGK: Tensor, layer: int, now: Pass) -> Tensor:
        if "value_residual" not in now.kept:
            now.kept["value_residual"] = v_BTGK
            return v_BTGK
        first_BTGK = now.kept["value_residual"]
        weight = self.weight[layer].to(v_BTGK.dtype)
        if self.form == "blend":
            return weight[0] * first_BTGK + weight[1] * v_BTGK
        return v_BTGK + torch.sigmoid(weight) * first_BTGK
