"""Two lanes: from one layer on, attention reads lane p, the feed-forward part reads lane q, and both write to both lanes.

    entering the first such layer:  p = q = x;      at the end:  x = (p + q) / 2
    A = a ⊙ Attention(s rms(entered p))             entered: through the residual mix, where that is on

    simultaneous:  M = b ⊙ MLP(s rms(q))
                   p <- ρ_l0 p + α_l0 A + μ_l0 M;   q <- ρ_l1 q + α_l1 A + μ_l1 M        ρ of a lane
    sequential:    p <- ρ_l0 p + α_l0 A;            q <- ρ_l0 q + α_l1 A                 ρ of a write
                   M = b ⊙ MLP(s rms(entered q))
                   p <- ρ_l1 p + μ_l0 M;            q <- ρ_l1 q + μ_l1 M

ρ starts at 1.1 (sequential: at the square root of 1.1, because it acts twice), α and μ start at 1. All layers have these parameters; those
before `first_layer` are never used. Skips join lane p only; with sequential writes they join both lanes.
Source: simultaneous parameter-golf #1855 (from layer 8 of 11); sequential #1204 (from layer 7), off in #1285.
"""

# B batch, T time, D width, L layers

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import require

STAY = 1.1  # initial ρ: #1855; #1204 has its square root
Lane = Callable[[Tensor], Tensor]


def Feature(config: ModelConfig, *, first_layer: int, writes: Literal["simultaneous", "sequential"]) -> nn.Module:
    """The module of the chosen kind of writes."""
    return (Simultaneous if writes == "simultaneous" else Sequential)(config, first_layer)


class Simultaneous(nn.Module):
    """Parameters, each (L, 2): stay (ρ) for lane p and q, attention (α) and mlp (μ) to lane p and q."""

    initial_stay, skips_join_both = STAY, False

    def __init__(self, config: ModelConfig, first_layer: int):
        super().__init__()
        path, others = "model.features.two_lane.first_layer", config.features
        require(first_layer < config.num_layers, f"{path} is {first_layer}; it takes 0 to model.num_layers {config.num_layers} - 1")
        last = others.get("depth_recurrence", {}).get("last_layer", -1)
        require(last < first_layer, f"{path} is {first_layer}, but the lanes must open after the last layer that recurs, {last}")
        require(
            "unet_skips" not in others or first_layer >= config.num_layers // 2,
            f"{path} is {first_layer}, but the lanes must open in the second half of the layers, where unet_skips only reads",
        )
        require(
            "parallel_residual" not in others and "dtg" not in others,
            "model.features.two_lane takes the place of parallel_residual and of dtg; leave one of them",
        )
        self.first_layer = first_layer
        self.stay, self.attention, self.mlp = (nn.Parameter(torch.empty(config.num_layers, 2)) for _ in range(3))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.stay.fill_(self.initial_stay)
        self.attention.fill_(1.0)
        self.mlp.fill_(1.0)

    def write(self, p_BTD: Tensor, q_BTD: Tensor, attended_BTD: Tensor, enter: Lane, feed: Lane, layer: int) -> tuple[Tensor, Tensor]:
        """Both lanes after a layer; `enter` and `feed` are the layer's residual mix and feed-forward part, (B, T, D) -> (B, T, D)."""
        fed_BTD = feed(q_BTD)
        stay, attention, mlp = (weight[layer].to(p_BTD.dtype) for weight in (self.stay, self.attention, self.mlp))
        p, q = (stay[i] * lane + attention[i] * attended_BTD + mlp[i] * fed_BTD for i, lane in enumerate((p_BTD, q_BTD)))
        return p, q


class Sequential(Simultaneous):
    """Parameters, each (L, 2): stay (ρ) at attention's and at the feed-forward part's write, attention (α) and mlp (μ) to lane p and q."""

    initial_stay, skips_join_both = STAY**0.5, True

    def write(self, p_BTD: Tensor, q_BTD: Tensor, attended_BTD: Tensor, enter: Lane, feed: Lane, layer: int) -> tuple[Tensor, Tensor]:
        """Both lanes after a layer; the feed-forward part reads lane q after attention has written to it."""
        stay, attention, mlp = (weight[layer].to(p_BTD.dtype) for weight in (self.stay, self.attention, self.mlp))
        p_BTD, q_BTD = (stay[0] * lane + attention[i] * attended_BTD for i, lane in enumerate((p_BTD, q_BTD)))
        fed_BTD = feed(enter(q_BTD))
        p_BTD, q_BTD = (stay[1] * lane + mlp[i] * fed_BTD for i, lane in enumerate((p_BTD, q_BTD)))
        return p_BTD, q_BTD
