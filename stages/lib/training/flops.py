"""Run a network once on the meta device, where tensors have shapes and no values, and write down what it does.

What is found is what runs: the order of the layers, who reads which skip, which feature acts where, and the multiply-adds.
The counting rule, per token of one row of T tokens:

    a matrix (out, in), wherever F.linear applies one, the head included      2 in out
    attention of H heads of width K, causal average of (T + 1) / 2 keys       2 H K (T + 1): scores and weighted sum

A layer that runs several times counts each time. Looking tables up, norms and elementwise work count nothing. Training is three times
the forward pass: each product has two in the backward pass. Packed documents see fewer keys than a full row: there it is a bound.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stages.runtime.network.features import Hooks
from stages.runtime.network.gpt import GPT

TRAINING = 3  # forward passes that a training step is worth
UNCOUNTED = {torch.matmul, torch.mm, torch.bmm, torch.einsum, torch.addmm, torch.baddbmm, torch.tensordot, Tensor.matmul, Tensor.mm,
             Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__, F.conv1d}
FRONT, END = ("embed", "stream"), ("final",)  # hooks before the first layer and after the last; the others act in a layer


@dataclass
class Place:
    """One execution of a layer. `reads` is the place whose output it merges as a skip; `visit` counts executions of this layer from 1."""

    layer: int
    visit: int
    reads: int | None
    features: set[str] = field(default_factory=set)
    flops: int = 0  # per token, forward


@dataclass
class Trace:
    """Places in order of execution, what acts before the first and after the last of them, and FLOPs per token there; those of the head
    are with the latter. `auxiliary_flops` are of what only training computes."""

    places: list[Place]
    front_features: list[str]
    front_flops: int
    end_features: list[str]
    end_flops: int
    auxiliary_flops: int

    @property
    def flops(self) -> int:
        """Per token, forward."""
        return self.front_flops + sum(place.flops for place in self.places) + self.end_flops

    @property
    def training_flops(self) -> int:
        """Per token, forward and backward."""
        return TRAINING * (self.flops + self.auxiliary_flops)


class Counter(TorchFunctionMode):
    """FLOPs of everything that runs inside, by the rule above. ValueError for a product that the rule does not know."""

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear:
            self.flops += 2 * args[0].numel() * args[1].size(0)
        elif func is F.scaled_dot_product_attention:
            query_BHTK = args[0]
            self.flops += 2 * query_BHTK.numel() * (query_BHTK.size(-2) + 1)
        elif func in UNCOUNTED:
            raise ValueError(f"the network multiplies with {func.__name__}, for which stages/lib/training/flops.py has no counting rule; use "
                             "torch.nn.functional.linear, or add the rule")
        return func(*args, **(kwargs or {}))


class Watched(Hooks):
    """The hooks of a network, noting which feature replaced its tensor."""

    def __init__(self, features: dict[str, nn.Module], note):
        super().__init__(features)
        self.names, self.note = {id(feature): name for name, feature in features.items()}, note

    def apply(self, hook: str, tensor, *rest):
        for feature in self.having[hook]:
            after = getattr(feature, hook)(tensor, *rest)
            if after is not tensor:
                self.note(hook, self.names[id(feature)])
            tensor = after
        return tensor


def run(net: GPT, *, length: int) -> Trace:
    """What the network, built on the meta device, does with one row of `length` tokens. The network is changed: use it once."""
    places: list[Place] = []
    front: list[str] = []
    end: list[str] = []
    outputs: list[Tensor] = []  # of the places; kept, so that no other tensor can get their ids
    counter, reads, front_flops = Counter(), None, 0

    def layer(layer_of: Callable, physical: int, *arguments):
        nonlocal reads, front_flops
        place = Place(physical, 1 + sum(before.layer == physical for before in places), reads)
        if not places:
            front_flops = counter.flops
        places.append(place)
        reads, before = None, counter.flops
        out = layer_of(physical, *arguments)
        place.flops = (counter.flops - before) // length
        place.features |= {name for name in ("two_lane",) if isinstance(out, tuple)}
        place.features |= {name for name in ("parallel_residual",) if name in net.features and physical >= net.features[name].first_layer}
        outputs.append(out[0] if isinstance(out, tuple) else out)
        return out

    def merge(x: Tensor, skip: Tensor, since_middle: int) -> Tensor:
        nonlocal reads
        reads = next(i for i, output in enumerate(outputs) if output is skip)
        return merge_of(x, skip, since_middle)

    def note(hook: str, name: str) -> None:
        if hook in FRONT + END:
            (front if hook in FRONT else end).append(name)
        else:
            places[-1].features.add(name)

    net._layer, net._two_lane_layer = partial(layer, net._layer), partial(layer, net._two_lane_layer)
    net.hooks = Watched(net.features, note)
    if "unet_skips" in net.features:
        merge_of = net.features["unet_skips"].merge
        net.features["unet_skips"].merge = merge
    with torch.no_grad(), counter:
        tokens_BT = torch.zeros(1, length, dtype=torch.int64, device="meta")
        hidden_BTD = net.hidden(tokens_BT)
        net.head(hidden_BTD)
        forward = counter.flops
        for feature in net.hooks.having["auxiliary_loss"]:
            feature.auxiliary_loss(hidden_BTD, tokens_BT)
    end_flops = forward - front_flops - length * sum(place.flops for place in places)
    return Trace(places, front, front_flops // length, end, end_flops // length, (counter.flops - forward) // length)
