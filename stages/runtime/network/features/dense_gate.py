"""Dense gate: a gate for each head, read from all of attention's input.

    y_{t,h} <- σ(W_lh . u_t) y_{t,h}          W starts as N(0, 0.005²)

Source: parameter-golf #1736.
"""

# B batch, T time, D width, H heads, K head width, L layers

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig

STD = 0.005  # #1736


class Feature(nn.Module):
    """Parameter: weight (L, H, D)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_layers, config.num_heads, config.width))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.normal_(0.0, STD, generator=generator)

    def gate(self, y_BTHK: Tensor, u_BTD: Tensor, layer: int) -> Tensor:
        gate_BTH = torch.sigmoid(F.linear(u_BTD, self.weight[layer].to(u_BTD.dtype)))
        return y_BTHK * gate_BTH.to(y_BTHK.dtype).unsqueeze(-1)
