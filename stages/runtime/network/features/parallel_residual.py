"""Parallel residual: in the last layers, the feed-forward part reads attention's input instead of the stream after attention.

    x <- x + a ⊙ Attention(s rms(x)) + b ⊙ MLP(s rms(x))        instead of MLP(s rms(x + a ⊙ Attention(...)))

No parameters. Source: GPT-J; parameter-golf #1412, #1493 (from layer 7).
"""

from torch import nn

from ..config import ModelConfig
from . import require


class Feature(nn.Module):
    """Acts from layer `first_layer` on, which gpt.py reads."""

    def __init__(self, config: ModelConfig, *, first_layer: int):
        super().__init__()
        require(
            first_layer < config.num_layers,
            f"model.features.parallel_residual.first_layer is {first_layer}; it takes 0 to model.num_layers {config.num_layers} - 1",
        )
        self.first_layer = first_layer
