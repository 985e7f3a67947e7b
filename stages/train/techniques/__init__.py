"""One technique of training per file; `train.techniques` in params.yaml names the ones that are on, with their options. The contract:

    Options                                            a dataclass with the technique's options, read from train.techniques.<name>
    class Technique(techniques.Technique)              replaces what it needs of the methods below

Techniques act in the alphabetical order of their names. Without any, training is what it is without this folder, to the bit. Everything
that a technique keeps from one step to the next is in `state`, so a killed run continues to the same bytes.
"""

import dataclasses

import torch
from torch import Tensor, nn

from stages.lib.node import params
from stages.lib.node.params import require
from stages.runtime.base import plugin


@dataclasses.dataclass
class Moment:
    """What a step is told. Every process has the same values.

    step: steps done before it; fraction: share of the budget that is spent, 0 to 1; matrices, others: multipliers of the learning rates of
    the matrices and of all other parameters; momentum: of Muon; decay: multiplier of the matrices' weight decay; looping: whether
    the recurrence is on; scale: the multiplier that `train.schedule` gives.
    """

    step: int
    fraction: float
    matrices: float
    others: float
    momentum: float
    decay: float
    looping: bool = False


class Technique:
    """Does nothing. A file's class replaces what it needs."""

    needs_muon = False
    write = None  # (weights, updates, rate, decay): instead of Muon's w <- w (1 - rate decay) - rate u, for lists of matrices

    def __init__(self, options, model: nn.Module, settings, world):
        self.options, self.model, self.settings, self.world = options, model, settings, world
        self.weights = dict(model.named_parameters())
        self.tensors: dict[str, Tensor] = {}  # under <slot>/<parameter>: what a checkpoint must hold

    def initialise(self, tokens) -> None:
        """Change the initial weights in place, once. `tokens`: the train text (lib/tokens/stream.py)."""

    def grouped(self, groups: list) -> list:
        """The groups of AdamW (optim/adamw.py) that replace `groups`."""
        return groups

    def plan(self, moment: Moment) -> None:
        """Change the rates of a step in place, before anything of it is computed."""

    def look_ahead(self, moment: Moment) -> None:
        """Change the weights before the forward pass."""

    def begin_part(self, moment: Moment, part: int, rows: int) -> None:
        """Before the forward pass of one of the parts of a step, of `rows` rows."""

    def end_parts(self) -> None:
        """After the last part's backward pass."""

    def kind(self, name: str) -> object:
        """Matrices of one shape are computed together if this is the same for them."""
        return None

    def shaped(self, stack, update_SMK: Tensor, gradients_SMK: Tensor) -> Tensor:
        """What Muon orthogonalises instead of this momentum, for this process's matrices of one shape (optim/muon.py)."""
        return update_SMK

    def before_adam(self, groups: list, scale: float) -> None:
        """Before AdamW updates its groups with rates times `scale`."""

    def after_adam(self) -> None:
        """After it."""

    def stepped(self, moment: Moment) -> None:
        """After all weights were updated."""

    def averages(self) -> dict[str, dict[str, Tensor]]:
        """Averages of the weights at the end of the run, by name of the average and of the parameter."""
        return {}

    def state(self) -> dict[str, Tensor]:
        return self.tensors

    def restore(self, saved: dict[str, Tensor]) -> None:
        self.tensors = {name: tensor.clone() for name, tensor in saved.items()}

    def zeros(self, slot: str) -> dict[str, Tensor]:
        """A float32 tensor of zeros for each parameter, kept in `tensors` under <slot>/<parameter>; by parameter."""
        return self.kept(slot, torch.zeros_like)

    def copies(self, slot: str) -> dict[str, Tensor]:
        """The same with copies of the present weights."""
        return self.kept(slot, torch.clone)

    def kept(self, slot: str, of) -> dict[str, Tensor]:
        for name, weight in self.weights.items():
            if f"{slot}/{name}" not in self.tensors:
                self.tensors[f"{slot}/{name}"] = of(weight.detach().float())
        return {name: self.tensors[f"{slot}/{name}"] for name in self.weights}


def options(named: dict) -> dict:
    """The checked options of each technique by name, in alphabetical order. ValueError names what is wrong in train.techniques."""
    return {
        name: params.build(plugin.load_from(__name__, name).Options, {} if named[name] is None else named[name], f"train.techniques.{name}")
        for name in sorted(named)
    }


def build(model: nn.Module, settings, world) -> dict[str, Technique]:
    """The techniques of a run by name. ValueError for two that both decide how Muon's updates are applied, or for one that needs Muon."""
    found = {
        name: plugin.load_from(__name__, name).Technique(chosen, model, settings, world)
        for name, chosen in options(settings.techniques).items()
    }
    writers = [name for name, technique in found.items() if technique.write]
    require(len(writers) < 2, f"train.techniques has {' and '.join(writers)}, which both decide how weights decay; leave one of them")
    for name, technique in found.items():
        require(
            settings.optimizer == "muon" or not technique.needs_muon,
            f"train.techniques.{name} changes updates of Muon, but train.optimizer is {settings.optimizer}; set it to muon",
        )
    return found
