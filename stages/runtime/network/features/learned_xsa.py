"""Learned exclusive self-attention: each head removes a share of its output's component along the token's own value.

    y_{h,t} <- y_{h,t} - tanh(a_{l,h}) (y_{h,t} . v_{t,g} / max(|v_{t,g}|², 1e-8)) v_{t,g}      g: the key/value head that h reads

a starts at 0: the network as it was. At a share of 1 it is `xsa`, and only one of the two can be on. v is what attention used, after every
feature that changes it. Source: modded-nanogpt, track 1, 7 May 2026. There a has no weight decay; here it is one of the scalars.
"""

# B batch, T time, H heads, G key/value heads, K head width

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import require


class Feature(nn.Module):
    """Parameter: strength (L, H), before the tanh."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        require("xsa" not in config.features, "model.features has xsa and learned_xsa, which remove the same; leave one of them")
        self.strength = nn.Parameter(torch.empty(config.num_layers, config.num_heads))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.strength.zero_()

    def attended(self, y_BTHK: Tensor, v_BTGK: Tensor, layer: int) -> Tensor:
        y_BTGRK, v_BTG1K = y_BTHK.float().unflatten(2, (v_BTGK.size(2), -1)), v_BTGK.float().unsqueeze(-2)  # R heads read each value
        share_GR1 = torch.tanh(self.strength[layer].float()).view(*y_BTGRK.shape[2:4], 1)
        along_BTGR1 = (y_BTGRK * v_BTG1K).sum(-1, keepdim=True) / v_BTG1K.square().sum(-1, keepdim=True).clamp_min(1e-8)
        return (y_BTGRK - share_GR1 * along_BTGR1 * v_BTG1K).to(y_BTHK.dtype).flatten(2, 3)
