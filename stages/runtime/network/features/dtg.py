"""Dynamic token gate: a gate for each token, which scales the change that a layer makes.

    x_out <- x_in + σ(w_l . x_in + b_l) (x_out - x_in)          w starts at 0, b at 2; no gradient flows into x_in through the gate

x_in is the layer's input after the residual mix. Source: parameter-golf #549, off in its published run.
"""

# B batch, T time, D width, L layers

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass

OPEN = 2.0  # initial b, σ(2) = 0.88: #549


class Feature(nn.Module):
    """Parameters: weight (L, D), bias (L)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_layers, config.width))
        self.bias = nn.Parameter(torch.empty(config.num_layers))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.zero_()
        self.bias.fill_(OPEN)

    def leave(self, x_BTD: Tensor, entered_BTD: Tensor, layer: int, now: Pass) -> Tensor:
        weight_1D, bias = self.weight[layer, None].to(x_BTD.dtype), self.bias[layer].to(x_BTD.dtype)
        gate_BT1 = torch.sigmoid(entered_BTD.detach() @ weight_1D.mT + bias)
        return entered_BTD + gate_BT1 * (x_BTD - entered_BTD)
