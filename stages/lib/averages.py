"""Running averages of the weights, updated after every optimizer step: e <- d e + (1 - d) w, float32, e_0 = initial weights."""

import torch
from torch import Tensor, nn


def name(decay: float) -> str:
    """The name under which an average is stored, e.g. `ema_0.98`."""
    return f"ema_{decay:g}"


class Averages:
    """Several exponential moving averages of one model's parameters at once."""

    def __init__(self, model: nn.Module, decays: tuple[float, ...]):
        for decay in decays:
            if not 0 <= decay < 1:
                raise ValueError(f"params.yaml: train.averages has {decay}; a decay is at least 0 and below 1")
        self.parameters = dict(model.named_parameters())
        self.decays = {name(decay): decay for decay in decays}
        if len(self.decays) < len(decays):
            raise ValueError(f"params.yaml: train.averages {list(decays)} has decays that share a name; six digits must tell them apart")
        self.tensors: dict[str, dict[str, Tensor]] = {
            average: {key: weight.detach().float().clone() for key, weight in self.parameters.items()} for average in self.decays}

    @torch.no_grad()
    def update(self) -> None:
        weights = [weight.detach().float() for weight in self.parameters.values()]
        for average, decay in self.decays.items():
            torch._foreach_lerp_(list(self.tensors[average].values()), weights, 1 - decay)
