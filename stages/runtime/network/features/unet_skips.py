"""U-Net skips: the second half of the executed layers reads the outputs of the first half, the last output first.

    plain:  x <- x + w_k ⊙ s                                 w starts at 1
    gated:  x <- σ(γ_k) ⊙ x + (1 - σ(γ_k)) ⊙ w_k ⊙ s         γ starts at 0: an even blend

Of N executed layers, the first floor(N / 2) push their output on a stack. Before each later layer, while the stack is not empty, one is
popped and merged with the parameters k = min(layers since the middle, sets - 1). Source: the naive baseline (plain, 4 sets), #549 (plain,
5), #1172 and #1285 (gated, 5; the recurrence makes #1285 use its last set twice), #1855 (gated, 8).
"""

# B batch, T time, D width, S sets

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import require


class Feature(nn.Module):
    """Parameters: weight (S, D); with `gated`, gate (S, D) before the logistic function."""

    def __init__(self, config: ModelConfig, *, gated: bool, sets: int):
        super().__init__()
        require(
            sets >= 1 and config.num_layers >= 2,
            "model.features.unet_skips takes sets of 1 or more and needs model.num_layers of 2 or more",
        )
        self.weight = nn.Parameter(torch.empty(sets, config.width))
        self.gate = nn.Parameter(torch.empty(sets, config.width)) if gated else None

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.weight.fill_(1.0)
        if self.gate is not None:
            self.gate.zero_()

    def merge(self, x_BTD: Tensor, skip_BTD: Tensor, since_middle: int) -> Tensor:
        """The stream merged with one output of the first half."""
        k = min(since_middle, len(self.weight) - 1)
        skip_BTD = self.weight[k].to(x_BTD.dtype) * skip_BTD
        if self.gate is None:
            return x_BTD + skip_BTD
        gate_D = torch.sigmoid(self.gate[k]).to(x_BTD.dtype)
        return gate_D * x_BTD + (1 - gate_D) * skip_BTD
