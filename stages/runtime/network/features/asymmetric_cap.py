"""Asymmetric cap: one soft cap for positive logits and one for negative ones, in scoring alone.

    z <- c₊ tanh(z / c₊) where z >= 0, else c₋ tanh(z / c₋)          c₊ and c₋ start at model.logit_softcap, in float32

The training loss keeps the constant model.logit_softcap, and no optimizer of training has the two caps, so a trained model has them where
they started and scores as without them. With `learned`, gradients reach them wherever logits are differentiated in scoring, as in the
phases of ttt_phased. Without it they are constants, which is what the published runs amount to: there the loss of the phases has the
constant too. Source: parameter-golf #1923, #1945, #2135; the idea is modded-nanogpt's.
"""

import torch
from torch import Tensor, nn

from ..config import ModelConfig


class Feature(nn.Module):
    """Parameters: positive (1), negative (1)."""

    def __init__(self, config: ModelConfig, *, learned: bool):
        super().__init__()
        self.learned, self.start = learned, config.logit_softcap
        self.positive, self.negative = (nn.Parameter(torch.empty(1)) for _ in range(2))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.positive.fill_(self.start)
        self.negative.fill_(self.start)

    def cap(self, cap: float | Tensor, logits: Tensor) -> Tensor:
        positive, negative = (c.float() if self.learned else c.detach().float() for c in (self.positive, self.negative))
        return torch.where(logits >= 0, positive, negative)
