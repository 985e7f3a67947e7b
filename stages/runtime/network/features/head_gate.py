"""Head gate: a gate for each head with a bias, almost open at the start.

    y_{t,h} <- σ(W_lh . u_t + b_lh) y_{t,h}          W starts at 0, b at 4: every gate at 0.98

Source: parameter-golf #549's family, off in its published runs.
"""

# B batch, T time, D width, H heads, K head width, L layers

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig

OPEN = 4.0  # initial b: #549


class Feature(nn.Module):
    """Parameters: weight (L, H, D), bias (L, H)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_layers, config.num_heads, config.width))
        self.bias = nn.Parameter(torch.empty(config.num_layers, config.num_heads))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.zero_()
        self.bias.fill_(OPEN)

    def gate(self, y_BTHK: Tensor, u_BTD: Tensor, layer: int) -> Tensor:
        gate_BTH = torch.sigmoid(F.linear(u_BTD, self.weight[layer].to(u_BTD.dtype), self.bias[layer].to(u_BTD.dtype)))
        return y_BTHK * gate_BTH.to(y_BTHK.dtype).unsqueeze(-1)
