"""Untied MLP: if depth_recurrence repeats a layer, the repetitions have their own feed-forward part.

    first run:    x <- x + b_l ⊙ W_down a(W_up s rms(x))
    repetitions:  x <- x + b_l ⊙ V_down a(V_up s rms(x))          V: this feature's; with parts `down`, V_up is W_up

Scales and attention stay shared; all repetitions of a layer share one V (the published stack has one repetition). When the recurrence
starts in training, V becomes a copy of W. If it is on from the first step, V keeps its initial values: V_up orthogonal, V_down 0.
Source: parameter-golf #1204 (layers 4 and 5, full), off in #1285.
"""

# D width, F width of the feed-forward part

from typing import Literal

import torch
from torch import nn

from ..config import ModelConfig
from . import Pass, require


class Feature(nn.Module):
    """Parameters for each of `layers`: down.<layer> (D, F); with `full`, up.<layer> (F, D)."""

    def __init__(self, config: ModelConfig, *, layers: list[int], parts: Literal["full", "down"]):
        super().__init__()
        loop = config.features.get("depth_recurrence")
        require(loop is not None, "model.features.untied_mlp is for layers that depth_recurrence repeats; name that too")
        allowed = range(loop.get("first_layer", 0), loop.get("last_layer", 0) + 1)
        require(
            1 <= len(set(layers)) == len(layers) and set(layers) <= set(allowed),
            f"model.features.untied_mlp.layers is {layers}; it takes different layers that recur, {allowed[0]} to {allowed[-1]}",
        )
        self.up = nn.ModuleDict({str(layer): nn.Linear(config.width, config.mlp_width, bias=False) for layer in layers if parts == "full"})
        self.down = nn.ModuleDict({str(layer): nn.Linear(config.mlp_width, config.width, bias=False) for layer in layers})
        self.looping = True

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        for layer in self.up.values():
            nn.init.orthogonal_(layer.weight, generator=generator)
        for layer in self.down.values():
            layer.weight.zero_()

    @torch.no_grad()
    def progress(self, model: nn.Module, *, step: float, fraction: float) -> None:
        looping = model.features["depth_recurrence"].looping  # updated already, because features act in alphabetical order
        if looping and not self.looping:
            for own, part in ((self.up, "up"), (self.down, "down")):
                for layer, linear in own.items():
                    linear.weight.copy_(getattr(model.blocks[int(layer)].mlp, part).weight)
        self.looping = looping

    def projections(self, up_down: tuple[nn.Module, nn.Module], layer: int, now: Pass) -> tuple[nn.Module, nn.Module]:
        key = str(layer)
        if not now.is_repetition or key not in self.down:
            return up_down
        return self.up[key] if key in self.up else up_down[0], self.down[key]
