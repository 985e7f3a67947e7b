"""Two lanes: from one layer on, attention reads lane p, the feed-forward part lane q, and both write to both.

    entering the first such layer:  p = q = x
    A = a ⊙ Attention(s rms(entered p));  M = b ⊙ MLP(s rms(q))           entered: through the residual mix, where that is on
    p <- ρ_l0 p + α_l0 A + μ_l0 M;        q <- ρ_l1 q + α_l1 A + μ_l1 M
    at the end:  x = (p + q) / 2

ρ starts at 1.1, α and μ at 1; all layers have them, those before `first_layer` are never used. Skips join lane p.
Source: parameter-golf #1855 (from layer 8 of 11).
"""

# B batch, T time, D width, L layers

import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from . import require

STAY = 1.1  # initial ρ: #1855


class Feature(nn.Module):
    """Parameters, each (L, 2), for lane p and lane q: stay (ρ), attention (α), mlp (μ)."""

    def __init__(self, config: ModelConfig, *, first_layer: int):
        super().__init__()
        path, others = "model.features.two_lane.first_layer", config.features
        require(first_layer < config.num_layers, f"{path} is {first_layer}; it takes 0 to model.num_layers {config.num_layers} - 1")
        last = others.get("depth_recurrence", {}).get("last_layer", -1)
        require(last < first_layer,
                f"{path} is {first_layer}, but the lanes must open after the last layer that recurs, {last}")
        require("unet_skips" not in others or first_layer >= config.num_layers // 2,
                f"{path} is {first_layer}, but the lanes must open in the second half of the layers, where unet_skips only reads")
        require("parallel_residual" not in others and "dtg" not in others,
                "model.features.two_lane takes the place of parallel_residual and of dtg; leave one of them")
        self.first_layer = first_layer
        self.stay, self.attention, self.mlp = (nn.Parameter(torch.empty(config.num_layers, 2)) for _ in range(3))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.stay.fill_(STAY)
        self.attention.fill_(1.0)
        self.mlp.fill_(1.0)

    def write(self, p_BTD: Tensor, q_BTD: Tensor, attended_BTD: Tensor, fed_BTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Both lanes after a layer."""
        stay, attention, mlp = (weight[layer].to(p_BTD.dtype) for weight in (self.stay, self.attention, self.mlp))
        p, q = (stay[i] * lane + attention[i] * attended_BTD + mlp[i] * fed_BTD for i, lane in enumerate((p_BTD, q_BTD)))
        return p, q
