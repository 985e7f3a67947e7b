"""Which optimizer updates which parameter: Muon (or AdamW) the matrices, AdamW the tables and the scalars; each exactly once.

| group    | members                                                                | learning rate           | decay                  |
|----------|------------------------------------------------------------------------|-------------------------|------------------------|
| matrices | linear layers of the blocks, and the features' in muon.projections     | matrix_learning_rate    | matrix_weight_decay    |
| tables   | embedding, tables of bigram_hash and value_embedding                   | embedding_learning_rate | embedding_weight_decay |
| head     | table of an untied head                                                | head_learning_rate      | none, as published     |
| scalars  | all the rest                                                           | scalar_learning_rate    | scalar_weight_decay    |

Constants (features in SCORING_ONLY) keep the values with which they start.

Per step: start (exchange of gradients begins) -> clip -> step. Source: #549, #1285 (its value projection is in Muon).
"""

import torch
from torch import Tensor, nn

from stages.lib.node.launch import World
from stages.lib.node.params import require
from stages.runtime.network import gpt
from stages.train import techniques
from stages.train.optim.adamw import AdamW, Group
from stages.train.optim.muon import Muon
from stages.train.settings import Split, TrainSettings


class Optimizers:
    """The two optimizers of one model. ValueError if train.muon.projections names a feature that the model does not have."""

    def __init__(self, model: gpt.GPT, settings: TrainSettings, world: World):
        self.settings, self.world, self.model = settings, world, model
        groups = members(model, settings.muon.projections)
        self.early = early_matrices(model, settings.split)
        self.techniques = techniques.build(model, settings, world)
        applied = settings.split.form == "applied"
        self.adam_only = settings.optimizer == "adamw"
        multipliers = dict.fromkeys(self.early, settings.split.rate) if applied else {}
        self.muon = Muon(
            {} if self.adam_only else groups["matrices"],
            settings.muon,
            world=world,
            multipliers=multipliers,
            pair_rows=2 * model.config.head_width,
            techniques=list(self.techniques.values()),
        )
        adam_groups = [
            Group(groups["tables"], settings.embedding_learning_rate, settings.embedding_weight_decay),
            Group(groups["head"], settings.head_learning_rate, 0.0),
            Group(groups["scalars"], settings.scalar_learning_rate, settings.scalar_weight_decay, name="scalars"),
        ]
        if self.adam_only:
            for is_early in (True, False):
                weights = {name: weight for name, weight in groups["matrices"].items() if (name in multipliers) == is_early}
                rate = settings.matrix_learning_rate * (settings.split.rate if is_early else 1.0)
                adam_groups.append(Group(weights, rate, settings.matrix_weight_decay))
        self.groups = adam_groups
        for grouped in self.having("grouped"):
            adam_groups = grouped(adam_groups)
        self.adam = AdamW(adam_groups, settings.adamw, world=world)

    @torch.no_grad()
    def step(self, *, scale: float, momentum: float, taper: float, others: float | None = None) -> None:
        """One update from the gradients of this process. `scale` multiplies every learning rate, but `others` (if given) those that are not
        of the matrices; `taper` the decay of the matrices."""
        others = scale if others is None else others
        settings = self.settings
        for weight in self.model.parameters():
            if weight.grad is None:  # this step did not use this part of the model
                weight.grad = torch.zeros_like(weight)
        if settings.split.form == "published":
            self._scale_early_gradients()
        alone = self.world.size == 1 or settings.gradient_clip_scope == "process"
        if settings.gradient_clip > 0 and alone:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip)
        self.muon.start()
        self.adam.start()
        if settings.gradient_clip > 0 and not alone:
            self._clip(settings.gradient_clip)
        self.each("before_adam", self.groups, others)
        self.adam.step(scale=others)
        self.each("after_adam")
        self.muon.step(rate=settings.matrix_learning_rate * scale, momentum=momentum, weight_decay=settings.matrix_weight_decay * taper)

    def _scale_early_gradients(self) -> None:
        """What #1172 ran. Muon's update does not depend on the size of a gradient, so this only changes the weights in the clipping."""
        weights = dict(self.model.named_parameters())
        if self.early:
            torch._foreach_mul_([weights[name].grad for name in self.early], self.settings.split.rate)

    def _clip(self, largest: float) -> None:
        """Scale all averaged gradients by min(1, largest / their global norm)."""
        sharded, replicated = self.muon.gradients(), self.adam.gradients()
        squares = sum((x.float().square().sum() for x in sharded), torch.zeros((), device=self.world.device))
        torch.distributed.all_reduce(squares)
        squares = squares + sum((x.float().square().sum() for x in replicated), torch.zeros((), device=self.world.device))
        factor = (largest / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in (*sharded, *replicated):
            gradient.mul_(factor.to(gradient.dtype))

    def state(self) -> dict[str, Tensor]:
        """Every tensor of both optimizers, under <parameter>/<slot>, and of the techniques, under technique:<name>/<tensor>. With several
        processes this is a collective: all must call it."""
        own = {f"technique:{name}/{key}": x for name, technique in self.techniques.items() for key, x in technique.tensors.items()}
        return self.muon.state() | self.adam.state() | own

    def averages(self) -> dict[str, dict[str, Tensor]]:
        """The averages of the weights that techniques kept, by name and parameter."""
        return {name: average for averages in self.having("averages") for name, average in averages().items()}

    def having(self, hook: str) -> list:
        """The hook of each technique that has it."""
        return [getattr(technique, hook) for technique in self.techniques.values() if hasattr(technique, hook)]

    def each(self, hook: str, *arguments) -> None:
        """Call the hook of each technique that has it."""
        for function in self.having(hook):
            function(*arguments)

    def restore(self, saved: dict[str, Tensor]) -> None:
        for name, technique in self.techniques.items():
            prefix = f"technique:{name}/"
            technique.tensors = {key.removeprefix(prefix): x.clone() for key, x in saved.items() if key.startswith(prefix)}
        saved = {key: tensor for key, tensor in saved.items() if not key.startswith("technique:")}
        self.muon.restore(saved)
        self.adam.restore(saved)


def members(model: gpt.GPT, projections: tuple[str, ...]) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by group and name, each in exactly one group. `projections` are features whose linear layers count as matrices."""
    for feature in projections:
        linear = [name for name in gpt.matrices(model) if name.startswith(f"{feature}.")]
        require(
            bool(linear),
            f"train.muon.projections has {feature!r}, but model.features has no such feature with a linear layer; leave it out",
        )
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = {group: {names[id(weight)]: weight for weight in weights} for group, weights in gpt.groups(model).items()}
    for name in list(found["scalars"]):
        if name.split(".")[0] in projections and found["scalars"][name].ndim == 2 and name.removesuffix(".weight") in gpt.matrices(model):
            found["matrices"][name] = found["scalars"].pop(name)
    found["head"] = {name: found["tables"].pop(name) for name in list(found["tables"]) if name == "unembedding.weight"}
    together = [name for group in found.values() for name in group]
    assert sorted(together) == sorted(names.values()), "a parameter is in no group, or in two"
    return found


def early_matrices(model: gpt.GPT, split: Split) -> list[str]:
    """Names of the matrices of the first `split.layers` layers."""
    require(split.layers <= len(model.blocks), f"train.split.layers is {split.layers}, the model has {len(model.blocks)} layers")
    return [f"{name}.weight" for name in gpt.matrices(model) if name.startswith("blocks.") and int(name.split(".")[1]) < split.layers]
