"""Exclusive self-attention: removes from each head's output its component along the token's own value.

    v^_t = v_t / max(|v_t|, 1e-12);      y_{h,t} <- y_{h,t} - (y_{h,t} . v^_{t,g}) v^_{t,g}       g: the key/value head that h reads

No parameters; v is what attention used, after every feature that changes it. Source: parameter-golf #549 (last 4 layers), #1019 (all).
"""

# B batch, T time, H heads, G key/value heads, K head width

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from . import require


class Feature(nn.Module):
    """Acts in the last `last_layers` layers."""

    def __init__(self, config: ModelConfig, *, last_layers: int):
        super().__init__()
        require(
            1 <= last_layers <= config.num_layers,
            f"model.features.xsa.last_layers is {last_layers}; it takes 1 to model.num_layers {config.num_layers}",
        )
        self.first_layer = config.num_layers - last_layers

    def attended(self, y_BTHK: Tensor, v_BTGK: Tensor, layer: int) -> Tensor:
        if layer < self.first_layer:
            return y_BTHK
        unit_BTG1K = F.normalize(v_BTGK.float(), dim=-1, eps=1e-12).to(y_BTHK.dtype).unsqueeze(-2)
        y_BTGRK = y_BTHK.unflatten(2, (v_BTGK.size(2), -1))  # R heads read each value; v is broadcast and not repeated
        along_BTGRK = (y_BTGRK * unit_BTG1K).sum(-1, keepdim=True) * unit_BTG1K  # autocast on CUDA sums in float32
        return (y_BTGRK - along_BTGRK).to(y_BTHK.dtype).flatten(2, 3)
