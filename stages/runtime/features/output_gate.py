"""Output gate: a gate for each head, read from a few features of attention's input, that starts fully transparent.

    y_{t,h} <- 2 σ(W_lh . u_t[:window]) y_{t,h}          W starts at 0: every gate at 1

Source: parameter-golf #1667 (window 12).
"""

# B batch, T time, D width, H heads, K head width, L layers, W window

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.config import ModelConfig
from . import require


class Feature(nn.Module):
    """Parameter: weight (L, H, W)."""

    def __init__(self, config: ModelConfig, *, window: int):
        super().__init__()
        require(1 <= window <= config.width, f"model.features.output_gate.window is {window}; it takes 1 to model.width {config.width}")
        self.weight = nn.Parameter(torch.empty(config.num_layers, config.num_heads, window))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.zero_()

    def gate(self, y_BTHK: Tensor, u_BTD: Tensor, layer: int) -> Tensor:
        weight_HW = self.weight[layer].to(u_BTD.dtype)
        gate_BTH = 2 * torch.sigmoid(F.linear(u_BTD[..., :weight_HW.size(1)], weight_HW))
        return y_BTHK * gate_BTH.to(y_BTHK.dtype).unsqueeze(-1)
