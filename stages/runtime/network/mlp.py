"""Feed-forward sub-layer: out = W_down a(W_up u) with a(z) = leaky_relu(z, slope)².

Slope 0 is relu² (arXiv:2109.08668); with a slope above 0, negative units learn too (slope 0.5, parameter-golf #549).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .features import Hooks, Pass


class MLP(nn.Module):
    """(..., D) -> (..., D), position by position. The down projection starts at 0."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.negative_slope = config.mlp_negative_slope
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, u_BTD: Tensor, layer: int, hooks: Hooks, now: Pass) -> Tensor:
        up, down = hooks.apply("projections", (self.up, self.down), layer, now)
        return down(F.leaky_relu(up(u_BTD), self.negative_slope).square())
