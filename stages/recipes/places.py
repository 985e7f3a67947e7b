"""What a network does in one forward pass: the order of its layers, which place reads which skip, where features act, FLOPs by place.

The features are observed in a pass: a feature acts where its hook returns another tensor than it was given. Which skips are read, and the
layer from which the lanes or the residual are parallel, come from the configuration, as in runtime/network/gpt.py.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stages.lib.training import flops
from stages.runtime.network import gpt
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.features import Hooks

FRONT, END = ("embed", "stream"), ("final",)  # hooks before the first layer and after the last; the others act in a layer
FROM_A_LAYER_ON = ("parallel_residual", "two_lane")  # features without a hook


@dataclass
class Place:
    """One execution of a layer. `reads` is the place whose output it merges as a skip; `visit` counts executions of this layer from 1."""

    layer: int
    visit: int
    reads: int | None
    features: set[str] = field(default_factory=set)
    flops: int = 0  # per token, forward


@dataclass
class Run:
    """One forward pass: places in order of execution, and the features and FLOPs per token before the first place (front) and after the
    last (end, which includes the head)."""

    places: list[Place]
    front_features: list[str]
    front_flops: int
    end_features: list[str]
    end_flops: int

    @property
    def flops(self) -> int:
        """FLOPs per token of the whole forward pass."""
        return self.front_flops + sum(place.flops for place in self.places) + self.end_flops


class Noting(Hooks):
    """The hooks of a network; `seen` lists (hook, feature) for each feature that replaced its tensor."""

    def __init__(self, features: dict[str, torch.nn.Module]):
        super().__init__(features)
        self.names, self.seen = {id(feature): name for name, feature in features.items()}, []

    def apply(self, hook: str, tensor: Tensor, *rest) -> Tensor:
        for feature in self.having[hook]:
            before, tensor = tensor, getattr(feature, hook)(tensor, *rest)
            if tensor is not before:
                self.seen.append((hook, self.names[id(feature)]))
        return tensor


class Watched(gpt.GPT):
    """A GPT that records its pass: for each layer that ran, `layers` has (layer, features that acted, FLOPs before it, FLOPs after it)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.hooks, self.layers, self.counter = Noting(self.features), [], FlopCounterMode(display=False)

    def count(self, row: int) -> int:
        """Run one pass over a row of `row` tokens and return its FLOPs."""
        self.hooks.seen, self.layers = [], []
        with flops.counted() as self.counter:
            self(flops.tokens(row))
        return self.counter.get_total_flops()

    def _layer(self, layer: int, *rest):
        return self._noted(super()._layer, layer, *rest)

    def _two_lane_layer(self, layer: int, *rest):
        return self._noted(super()._two_lane_layer, layer, *rest)

    def _noted(self, run, layer: int, *rest):
        before, seen = self.counter.get_total_flops(), len(self.hooks.seen)
        out = run(layer, *rest)
        acting = {name for hook, name in self.hooks.seen[seen:]}
        self.layers.append((layer, acting, before, self.counter.get_total_flops()))
        return out


def run(net: Watched, *, length: int) -> Run:
    """The places and FLOPs of a forward pass over a row of `length` tokens."""
    parts = []  # for each row: FLOPs in front, of each layer, and at the end
    for row in flops.ROWS:
        total = net.count(row)
        layers = [after - before for _, _, before, after in net.layers]
        parts.append((front := net.layers[0][2], *layers, total - front - sum(layers)))
    front_flops, *by_layer, end_flops = (flops.causal(rows, length=length) for rows in zip(*parts, strict=True))
    order = [layer for layer, *_ in net.layers]
    places = [
        Place(layer, order[: i + 1].count(layer), _reads(net, i, len(order)), acting | _from_a_layer_on(net, layer), by_layer[i])
        for i, (layer, acting, *_) in enumerate(net.layers)
    ]
    front, end = ([name for hook, name in net.hooks.seen if hook in hooks] for hooks in (FRONT, END))
    return Run(places, front, front_flops, end, end_flops)


def _reads(net: gpt.GPT, position: int, count: int) -> int | None:
    """The place whose output this position reads. The second half reads the first in reverse; if `count` is odd, the last reads nothing."""
    source = 2 * (count // 2) - 1 - position
    return source if "unet_skips" in net.features and 0 <= source < count // 2 else None


def _from_a_layer_on(net: gpt.GPT, layer: int) -> set[str]:
    return {name for name in FROM_A_LAYER_ON if name in net.features and layer >= net.features[name].first_layer}
