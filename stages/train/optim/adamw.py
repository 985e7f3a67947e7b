"""AdamW over groups of named parameters. It is torch's own, with its state by name, so that a checkpoint can hold it.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g²;   w <- w (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

Source: Loshchilov and Hutter, arXiv:1711.05101. With weight_decay 0 it is the plain Adam of the naive baseline.
"""

from dataclasses import dataclass, replace

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
    """Parameters by name that share a learning rate (before the schedule) and a decay. What is None is that of train.adamw.

    is_corrected: whether m and v are divided by 1 - b^t, as in the formula above.
    """

    weights: dict[str, nn.Parameter]
    rate: float
    weight_decay: float
    name: str = ""
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    is_corrected: bool = True

    def without_decay(self) -> "Group":
        return replace(self, weight_decay=0.0)


def _of_torch(group: Group, options: Options) -> dict:
    beta1, beta2, epsilon = (
        shared if own is None else own
        for own, shared in zip((group.beta1, group.beta2, group.epsilon), (options.beta1, options.beta2, options.epsilon), strict=True)
    )
    weights = list(group.weights.values())
    return {"params": weights, "lr": group.rate, "weight_decay": group.weight_decay, "betas": (beta1, beta2), "eps": epsilon}


class AdamW:
    """Every process holds the whole state, as these parameters are small or rows of tables. Gradients are averaged in one flat buffer."""

    def __init__(self, groups: list[Group], options: Options, *, world: World):
        self.groups, self.world = [group for group in groups if group.weights], world
        self.name_of = {id(weight): name for group in self.groups for name, weight in group.weights.items()}
        self.weights = [weight for group in self.groups for weight in group.weights.values()]
        self.steps = 0
        self.torch = torch.optim.AdamW([_of_torch(group, options) for group in self.groups], fused=True) if self.groups else None
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
        self.steps += 1
        for group, own in zip(self.torch.param_groups, self.groups, strict=True):
            group["lr"] = own.rate * scale
            if not own.is_corrected:  # torch always corrects; these take it back
                first, second = (1 - beta**self.steps for beta in group["betas"])
                group["lr"] *= first / second**0.5
                group["eps"], group["weight_decay"] = own.epsilon / second**0.5, own.weight_decay * second**0.5 / first
        self.torch.step()

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name and slot."""
        found = self.torch.state.items() if self.torch else ()
        return {f"{self.name_of[id(weight)]}/{slot}": torch.as_tensor(value) for weight, slots in found for slot, value in slots.items()}

    def restore(self, saved: dict[str, Tensor]) -> None:
        if self.torch is None:
            return
        self.torch.state.clear()
        self.steps = max((int(tensor) for name, tensor in saved.items() if name.endswith("/step")), default=0)
        for weight in self.weights:
            for slot in ("step", "exp_avg", "exp_avg_sq"):
                if (tensor := saved.get(f"{self.name_of[id(weight)]}/{slot}")) is not None:
                    # torch keeps the step counter on the CPU unless it is fused
                    own = tensor if slot == "step" and weight.device.type == "cpu" else tensor.to(weight.device)
                    self.torch.state[weight][slot] = own.clone()
