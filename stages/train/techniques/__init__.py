"""One technique of training per file; `train.techniques` in params.yaml names the ones that are on, with their options. The contract:

    Options                                            a dataclass with the technique's options, read from train.techniques.<name>
    class Technique(techniques.Technique)              has the hooks that it needs, of these

| hook                                  | called                                                                                   |
|---------------------------------------|------------------------------------------------------------------------------------------|
| initialise(tokens)                    | once, to change the initial weights in place; tokens: the train text                     |
| grouped(groups) -> groups             | once, for the groups of AdamW (optim/adamw.py)                                           |
| kind(name) -> hashable                | once for each matrix; those of one shape are computed together if it is equal             |
| plan(moment)                          | before a step, to change its rates in place                                              |
| look_ahead(moment)                    | before its first forward pass, to change the weights                                     |
| begin_part(moment, part, rows)        | before the forward pass of each part of a step                                           |
| end_parts()                           | after the backward pass of the last part                                                 |
| before_adam(groups, scale)            | before AdamW updates the groups with rates times `scale`                                 |
| after_adam()                          | after it                                                                                 |
| shaped(stack, update, gradients) -> update | for what Muon orthogonalises, this process's matrices of one shape (optim/muon.py)  |
| write(weights, updates, rate, decay)  | instead of Muon's w <- w (1 - rate decay) - rate u, for lists of matrices                |
| stepped(moment)                       | after a step                                                                             |
| averages() -> {name: weights}         | at the end of a run, for averages of the weights                                         |

Techniques act in the alphabetical order of their names. Without any, training is what it is without this folder, to the bit. Everything
that a technique keeps from one step to the next is in `tensors` or in a stack's slots, so a killed run continues to the same bytes.
"""

import dataclasses

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
    """Without a hook, it does nothing. `tensors`: what a checkpoint must hold."""

    needs_muon = False

    def __init__(self, options, model: nn.Module, settings, world):
        self.options, self.model, self.settings, self.world = options, model, settings, world
        self.tensors: dict[str, Tensor] = {}


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
    writers = [name for name, technique in found.items() if hasattr(technique, "write")]
    require(len(writers) < 2, f"train.techniques has {' and '.join(writers)}, which both decide how weights decay; leave one of them")
    for name, technique in found.items():
        require(
            settings.optimizer == "muon" or not technique.needs_muon,
            f"train.techniques.{name} changes updates of Muon, but train.optimizer is {settings.optimizer}; set it to muon",
        )
    return found
