"""Tensors that a technique keeps for each parameter, in float32, among its `tensors`, so that a checkpoint holds them."""

from collections.abc import Callable

import torch
from torch import Tensor


def zeros(technique, slot: str) -> dict[str, Tensor]:
    """By parameter, tensors under <slot>/<parameter> that are 0 at first."""
    return _kept(technique, slot, torch.zeros_like)


def copies(technique, slot: str) -> dict[str, Tensor]:
    """The same with the weights of the first call at first."""
    return _kept(technique, slot, torch.clone)


def now(technique) -> list[Tensor]:
    """The present weights in float32."""
    return [weight.detach().float() for weight in technique.model.parameters()]


def _kept(technique, slot: str, of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    weights = dict(technique.model.named_parameters())
    for name, weight in weights.items():
        if f"{slot}/{name}" not in technique.tensors:
            technique.tensors[f"{slot}/{name}"] = of(weight.detach().float())
    return {name: technique.tensors[f"{slot}/{name}"] for name in weights}
