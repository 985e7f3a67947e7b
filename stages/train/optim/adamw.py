"""AdamW over groups of named parameters. It is torch's own, with its state by name, so that a checkpoint can hold it.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g²;   w <- w (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

Source: Loshchilov and Hutter, arXiv:1711.05101. With weight_decay 0 it is the plain Adam of the naive baseline.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.lib.node.launch import World
from stages.lib.node.params import Decay, Positive


@dataclass(frozen=True)
class Options:
    """The section `train.adamw`."""

    beta1: Decay
    beta2: Decay
    epsilon: Positive


@dataclass(frozen=True)
class Group:
    """Parameters by name that share a learning rate (before the schedule) and a decay. `adjust` changes torch's options of the group before
    each step, once the rate is set."""

    weights: dict[str, nn.Parameter]
    rate: float
    weight_decay: float
    name: str = ""
    adjust: Callable[[dict], None] | None = None


class AdamW:
    """Every process holds the whole state, as these parameters are small or rows of tables. Gradients are averaged in one flat buffer."""

    def __init__(self, groups: list[Group], options: Options, *, world: World):
        self.groups, self.world = [group for group in groups if group.weights], world
        self.name_of = {id(weight): name for group in self.groups for name, weight in group.weights.items()}
        self.weights = [weight for group in self.groups for weight in group.weights.values()]
        self.torch = (
            torch.optim.AdamW(
                [{"params": list(group.weights.values()), "lr": group.rate, "weight_decay": group.weight_decay} for group in self.groups],
                betas=(options.beta1, options.beta2),
                eps=options.epsilon,
                fused=True,
            )
            if self.groups
            else None
        )
        self.flat: list[tuple[Tensor, object, list[nn.Parameter]]] = []

    def start(self) -> None:
        """Begin to average the gradients over the processes: one buffer per dtype."""
        self.flat = []
        if self.world.size > 1:
            for dtype in dict.fromkeys(weight.dtype for weight in self.weights):
                weights = [weight for weight in self.weights if weight.dtype == dtype]
                buffer = torch.cat([weight.grad.flatten() for weight in weights])
                self.flat.append((buffer, torch.distributed.all_reduce(buffer, async_op=True), weights))

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """The averaged gradients, the same on every process. Clipping measures them and scales them in place."""
        for buffer, work, weights in self.flat:
            work.wait()
            buffer /= self.world.size
            parts = buffer.split([weight.numel() for weight in weights])
            torch._foreach_copy_([weight.grad for weight in weights], [part.view_as(w) for part, w in zip(parts, weights, strict=True)])
        self.flat = []
        return [weight.grad for weight in self.weights]

    def step(self, *, scale: float) -> None:
        """Call `start` first. `scale` is the schedule's multiplier of every learning rate."""
        self.gradients()
        if self.torch is None:
            return
        for group, own in zip(self.torch.param_groups, self.groups, strict=True):
            group["lr"] = own.rate * scale
            if own.adjust:
                own.adjust(group)
        self.torch.step()

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name and slot."""
        found = self.torch.state.items() if self.torch else ()
        return {f"{self.name_of[id(weight)]}/{slot}": torch.as_tensor(value) for weight, slots in found for slot, value in slots.items()}

    def restore(self, saved: dict[str, Tensor]) -> None:
        if self.torch is None:
            return
        self.torch.state.clear()
        for weight in self.weights:
            for slot in ("step", "exp_avg", "exp_avg_sq"):
                if (tensor := saved.get(f"{self.name_of[id(weight)]}/{slot}")) is not None:
                    # torch keeps the step counter on the CPU unless it is fused
                    own = tensor if slot == "step" and weight.device.type == "cpu" else tensor.to(weight.device)
                    self.torch.state[weight][slot] = own.clone()
