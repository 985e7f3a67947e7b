"""Smear gate: before the first layer, each token is mixed with its predecessor.

    version 1, after the norm:   x_t <- (1 - σ(γ)) ⊙ x_t + σ(γ) ⊙ x_{t-1},  x_{-1} = 0             γ (D) starts at 0: an even blend
    version 2, before the norm:  x_t <- x_t + λ σ(w . x_t[:window]) [tok_t is not BOS] x_{t-1}     w, λ start at 0: the identity
    version 3:                   the same without the bracket

In versions 1 and 3 the predecessor may be in another document, as published; the window of version 1 is 0. Version 2 does not change the
first token of a row or of a document, and version 3 not that of a row. Source: modded-nanogpt; version 1 parameter-golf #549, version 2
#1855 (window 12) with the BOS mask of #1851, version 3 #1797 and #2135, whose text names the mask that its runs switch off.
"""

# B batch, T time, D width

from typing import Literal

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass, require

BOS = 1  # equal to runtime/text/tokenizer.py's (a test compares them); with an import, a change in that file would retrain


def Feature(config: ModelConfig, *, version: Literal[1, 2, 3], window: int) -> nn.Module:
    """The module of the chosen version."""
    if version == 1:
        require(window == 0, f"model.features.smear_gate.window is {window}; version 1 reads no features, set it to 0")
        return PerFeature(config.width)
    require(1 <= window <= config.width, f"model.features.smear_gate.window is {window}; it takes 1 to model.width {config.width}")
    return PerToken(window, version == 2)


class PerFeature(nn.Module):
    """Version 1. Parameter: gate (D), before the logistic function."""

    def __init__(self, width: int):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(width))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.gate.zero_()

    def stream(self, x_BTD: Tensor, now: Pass) -> Tensor:
        gate_D = torch.sigmoid(self.gate).to(x_BTD.dtype)
        before_BTD = torch.cat((torch.zeros_like(x_BTD[:, :1]), x_BTD[:, :-1]), dim=1)
        return (1 - gate_D) * x_BTD + gate_D * before_BTD


class PerToken(nn.Module):
    """Versions 2 and 3. Parameters: weight (window), strength (1)."""

    def __init__(self, window: int, masks: bool):
        super().__init__()
        self.masks = masks
        self.weight = nn.Parameter(torch.empty(window))
        self.strength = nn.Parameter(torch.empty(1))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.zero_()
        self.strength.zero_()

    def embed(self, x_BTD: Tensor, now: Pass) -> Tensor:
        read_BTW = x_BTD[:, 1:, : len(self.weight)]
        dot_BT1 = (read_BTW * self.weight.to(x_BTD.dtype)).sum(-1, keepdim=True).to(x_BTD.dtype)  # autocast on CUDA sums in float32
        gate_BT1 = torch.sigmoid(dot_BT1) * self.strength.to(x_BTD.dtype)
        if self.masks:
            gate_BT1 = gate_BT1 * (now.tokens_BT[:, 1:, None] != BOS)
        return torch.cat((x_BTD[:, :1], x_BTD[:, 1:] + gate_BT1 * x_BTD[:, :-1]), dim=1)
