"""Skip attention: some layers have only the feed-forward part.

    x <- x_in + b ⊙ MLP(s rms(x_in))          x_in: the layer's input, after the residual mix where that is on

These layers have no attention parameters: no projections, no query_gain and no attention_scale. The published script keeps these unused,
and leaves the projections out of its artifact. Source: parameter-golf #1204 (layer 0), off in #1285.
"""

from torch import nn

from ..config import ModelConfig
from . import require


class Feature(nn.Module):
    """No parameters, and fewer in the blocks. gpt.py reads `layers` when it builds them."""

    def __init__(self, config: ModelConfig, *, layers: list[int]):
        super().__init__()
        path, others = "model.features.skip_attention.layers", config.features
        require(
            1 <= len(set(layers)) == len(layers) < config.num_layers and max(layers, default=0) < config.num_layers,
            f"{path} is {layers}; it takes different layers below model.num_layers {config.num_layers}, and not all of them",
        )
        lanes = others.get("two_lane", {}).get("first_layer", config.num_layers)
        require(max(layers) < lanes, f"{path} is {layers}, but from layer {lanes} on, two_lane needs attention")
        unused = set(layers) & set(others.get("value_embedding", {}).get("layers", ()))
        require(not unused, f"{path} is {layers}, but value_embedding adds to the attention of {sorted(unused)}")
        self.layers = list(layers)
