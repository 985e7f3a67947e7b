"""Value embedding: some layers add a learned function of the token itself to the values of attention.

    v <- v + s_l scale P E[tok]         E: vocabulary x width, N(0, 0.01²);  P: width -> G K, orthogonal;  s_l starts at 1

All these layers share one table and one projection. Source: parameter-golf #549 (width 128, layers 9 and 10, scale 0.1). The published
P is orthogonal if both sides have 64 or more, else 0; here it is always orthogonal.
"""

# B batch, T time, G key/value heads, K head width, E width of the table

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass, require, table

TABLE_STD = 0.01  # #549


class Feature(nn.Module):
    """Parameters: table (V, E), projection (G K, E), scale (1), layer_scale (number of layers)."""

    def __init__(self, config: ModelConfig, *, layers: list[int], width: int, scale: float):
        super().__init__()
        require(
            width >= 1 and 1 <= len(set(layers)) == len(layers) and max(layers, default=0) < config.num_layers,
            f"model.features.value_embedding takes a width of 1 or more and different layers below model.num_layers "
            f"{config.num_layers}, not {width} and {layers}",
        )
        self.layers, self.initial_scale = list(layers), scale
        self.table = table(config.vocabulary_size, width)
        self.projection = nn.Linear(width, config.num_kv_heads * config.head_width, bias=False)
        self.scale = nn.Parameter(torch.empty(1))
        self.layer_scale = nn.Parameter(torch.empty(len(layers)))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.table.weight.normal_(0.0, TABLE_STD, generator=generator)
        nn.init.orthogonal_(self.projection.weight, generator=generator)
        self.scale.fill_(self.initial_scale)
        self.layer_scale.fill_(1.0)

    def value(self, v_BTGK: Tensor, layer: int, now: Pass) -> Tensor:
        if layer not in self.layers:
            return v_BTGK
        if "value_embedding" not in now.kept:  # computed once for all layers
            found = self.projection(self.table(now.tokens_BT))
            now.kept["value_embedding"] = (found * self.scale.to(found.dtype)).view_as(v_BTGK)
        added_BTGK = now.kept["value_embedding"]
        return v_BTGK + self.layer_scale[self.layers.index(layer)].to(added_BTGK.dtype) * added_BTGK
