"""LN scale: the input of a layer is scaled down with its depth, so that late layers start as small corrections.

    u <- u / sqrt(l + 1)          u = rms(x), before attention and before the feed-forward part; l the physical layer from 0

No parameters. Source: the eleven-layer stacks of parameter-golf (#549 and after).
"""

# B batch, T time, D width

from torch import Tensor, nn

from ..config import ModelConfig


class Feature(nn.Module):
    """Acts in every layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()

    def normalised(self, u_BTD: Tensor, layer: int) -> Tensor:
        return u_BTD * (layer + 1) ** -0.5
