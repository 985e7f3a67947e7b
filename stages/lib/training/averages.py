"""Averages of the weights during a run, in float32, from which one is chosen afterwards. w_t: weights after step t, w_0 as initialised.

    ema_<d>       e <- d e + (1 - d) w,  e_0 = w_0                                              published: 0.997, 0.9965
    swa           mean of w at every `swa_every`-th step while the schedule's scale is below `swa_below`
    lawa          mean of the last `lawa_last` w at every `lawa_every`-th step
    power_<g>     e <- b e + (1 - b) w,  b = (1 - 1/t)^(g+1): w_t weighs about t^g               Karras et al., arXiv:2312.02696

From snapshots of two power averages, any other average can be computed after the run (posthoc_averages.py).
"""

import torch
from torch import Tensor, nn


def name(decay: float) -> str:
    """The name under which an average is stored, e.g. `ema_0.98`."""
    return f"ema_{decay:g}"


def power_name(gamma: float) -> str:
    return f"power_{gamma:g}"


class Averages:
    """All averages of one model's parameters. `settings` is the section `train.averages`."""

    def __init__(self, model: nn.Module, settings):
        self.check(settings)
        self.settings, self.parameters = settings, dict(model.named_parameters())
        self.decays = {name(decay): decay for decay in settings.ema}
        self.powers = {power_name(gamma): gamma for gamma in settings.power}
        self.tensors: dict[str, dict[str, Tensor]] = {average: self._copy() for average in (*self.decays, *self.powers)}
        self.swa_count = 0
        self.recent: list[dict[str, Tensor]] = []  # the weights that lawa averages, oldest first

    @staticmethod
    def check(settings) -> None:
        """ValueError for averages with the same name."""
        for kind, values, spelled in (("ema", settings.ema, name), ("power", settings.power, power_name)):
            if len({spelled(value) for value in values}) < len(values):
                raise ValueError(f"train.averages.{kind} {list(values)} has values that share a name; six digits must tell them apart")

    def _copy(self) -> dict[str, Tensor]:
        return {key: weight.detach().float().clone() for key, weight in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int, scale: float) -> None:
        """Add the weights after step `step` (the first is 1) to all averages. `scale` was the multiplier of the step's learning rates."""
        weights = [weight.detach().float() for weight in self.parameters.values()]
        for average, decay in self.decays.items():
            torch._foreach_lerp_(list(self.tensors[average].values()), weights, 1 - decay)
        for average, gamma in self.powers.items():
            torch._foreach_lerp_(list(self.tensors[average].values()), weights, 1 - (1 - 1 / step) ** (gamma + 1))
        if self.settings.swa_every and step % self.settings.swa_every == 0 and scale < self.settings.swa_below:
            self.swa_count += 1
            if "swa" not in self.tensors:
                self.tensors["swa"] = self._copy()
            torch._foreach_lerp_(list(self.tensors["swa"].values()), weights, 1 / self.swa_count)
        if self.settings.lawa_every and step % self.settings.lawa_every == 0:
            self.recent = [*self.recent, self._copy()][-self.settings.lawa_last :]

    def finished(self) -> dict[str, dict[str, Tensor]]:
        """Every average by name, at the end of a run."""
        out = dict(self.tensors)
        if self.recent:
            out["lawa"] = {key: torch.stack([weights[key] for weights in self.recent]).mean(dim=0) for key in self.parameters}
        return out

    def power_averages(self) -> dict[str, Tensor]:
        """A snapshot: every power average, under <average>/<parameter>."""
        return {f"{average}/{key}": tensor for average in self.powers for key, tensor in self.tensors[average].items()}

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must hold, together with `facts`."""
        out = {f"{average}/{key}": tensor for average, weights in self.tensors.items() for key, tensor in weights.items()}
        return out | {f"lawa_{i}/{key}": tensor for i, weights in enumerate(self.recent) for key, tensor in weights.items()}

    def facts(self) -> dict:
        return {"swa_count": self.swa_count, "recent": len(self.recent)}

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor], facts: dict) -> None:
        self.swa_count = facts["swa_count"]
        self.tensors.pop("swa", None)
        if self.swa_count:
            self.tensors["swa"] = self._copy()
        self.recent = [self._copy() for _ in range(facts["recent"])]
        for average, weights in (*self.tensors.items(), *((f"lawa_{i}", weights) for i, weights in enumerate(self.recent))):
            for key, tensor in weights.items():
                tensor.copy_(saved[f"{average}/{key}"])
