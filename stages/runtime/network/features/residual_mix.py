"""Residual mix: each layer reads a learned blend of the stream and of the stream's start.

    x <- m0_l ⊙ x + m1_l ⊙ x_start          m0 starts at 1, m1 at 0

Source: the naive baseline, and every stack after it.
"""

# B batch, T time, D width, L layers

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass


class Feature(nn.Module):
    """Parameter: weight (L, 2, D), m0 and m1 of each layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_layers, 2, config.width))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight[:, 0] = 1.0
        self.weight[:, 1] = 0.0

    def enter(self, x_BTD: Tensor, layer: int, now: Pass) -> Tensor:
        m0_D, m1_D = self.weight[layer].to(x_BTD.dtype)
        return m0_D * x_BTD + m1_D * now.start_BTD
