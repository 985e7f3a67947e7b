"""One network's weights into codes: which method each tensor gets, and the corrections that look at all of them.

    for each tensor of a group: rotate, choose steps, round;   then make the cheapest codes zero;   then correct what is worst

Tensors in no group, with method none, or with fewer than `smallest` elements stay as they are, in float16.
"""

import fnmatch
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from stages.lib import params
from stages.lib.params import require
from stages.lib.quant import entropy_model, gptq, low_rank, nearest, prune, rotation, scales, ternary
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.settings import Group, Settings, check_group


@dataclass
class Result:
    """Quantized matrices by name, with the group and settings of each; float16 tensors; dampings that had to be raised; the constant
    of the entropy-constrained matrices, if there are any."""

    matrices: dict[str, Quantized] = field(default_factory=dict)
    groups: dict[str, tuple[str, Group]] = field(default_factory=dict)
    float16: dict[str, Tensor] = field(default_factory=dict)
    damping: dict[str, float] = field(default_factory=dict)
    fit: entropy_model.Fit | None = None

    def stored(self) -> dict[str, Tensor]:
        """All stored tensors: integers before floats, then by suffix, then by kind. Similar arrays are adjacent and compress better."""
        found = dict(self.float16)
        for name, quantized in self.matrices.items():
            found |= quantized.stored(name)
        order = sorted(found, key=lambda name: (found[name].is_floating_point(), name.rsplit(".", 1)[-1], _kind(name), name))
        return {name: found[name] for name in order}

    def schemes(self) -> dict[str, dict]:
        """How codes become weights again, of matrices that have more than codes and a scale for each row."""
        return {name: quantized.scheme for name, quantized in self.matrices.items() if quantized.scheme}


def _kind(name: str) -> str:
    """The name without its layer number."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def quantize(state: dict[str, Tensor], group_of: dict[str, str], hessians: dict[str, Tensor], settings: Settings, *,
             rows: dict[str, Tensor], multipliers: dict[str, float], device: torch.device) -> Result:
    """All of `state`. `group_of` by parameter, `hessians` and `rows` (gradients and counts) by module, `multipliers` of the steps by
    parameter. ValueError names the tensor that cannot be quantized so."""
    result, solver = Result(), Solver(hessians, settings, device)
    for name, weight in state.items():
        require(bool(torch.isfinite(weight).all()), f"weight {name} is not finite; lower the training's rates, or train again")
        group = own_settings(name, group_of.get(name), settings)
        if group is None or group.method == "none" or weight.numel() < settings.smallest:
            result.float16[name] = halved(name, weight)
        else:
            result.groups[name] = group_of[name], group
    together = [name for name, (_, group) in result.groups.items() if group.method == "entropy"]
    for name in tqdm([name for name in result.groups if name not in together], desc="quantize", unit=" matrices", mininterval=1.0):
        try:
            result.matrices[name] = solver.quantize(name, as_matrix(state[name]), *result.groups[name])
        except ValueError as error:
            raise ValueError(f"{name} (quantize.groups.{result.groups[name][0]}): {error}") from None
    result.damping = solver.raised
    if together:
        turned = [name for name in together if result.groups[name][0] in settings.rotation.groups]
        require(not turned, f"{', '.join(turned[:1])} has the method entropy, which takes no rotation; take its group out of "
                "quantize.rotation.groups")
        matrices = entropy_model.matrices({name: as_matrix(state[name]) for name in together}, hessians, rows, settings=settings.entropy,
                                          multipliers=multipliers)
        model = entropy_model.Model(matrices, options=settings.entropy.options, device=device)
        rest = sum(16.0 * weight.numel() for weight in result.float16.values())
        result.fit = entropy_model.fitted(model, settings=settings.entropy, others=result.matrices, rest_bits=rest)
        result.matrices = {name: (result.matrices | result.fit.quantized)[name] for name in result.groups}
    pruned = {name: quantized for name, quantized in result.matrices.items() if group_of[name] in settings.prune.groups}
    result.matrices |= prune.cheapest(pruned, settings.prune.codes)
    if settings.low_rank.matrices:
        correct(result.matrices, state, settings)
    return result


def own_settings(name: str, group: str | None, settings: Settings) -> Group | None:
    """The settings of the group with every override that matches the name, the last one last; None: in no group."""
    if group is None:
        return None
    found = getattr(settings.groups, group)
    for i, override in enumerate(settings.overrides):
        path = f"quantize.overrides[{i}]"
        require("tensors" in override, f"{path} has no tensors; give a pattern of names, such as blocks.[345].mlp.*")
        if fnmatch.fnmatch(name, override["tensors"]):
            values = asdict(found) | {"clip": list(found.clips) if isinstance(found.clip, tuple) else found.clip}
            found = params.build(Group, values | {key: value for key, value in override.items() if key != "tensors"}, path)
            check_group(found, path)
    return found


def as_matrix(weight: Tensor) -> Tensor:
    """(M, K): itself, or the layers and heads of a gate on top of each other."""
    return weight.reshape(-1, weight.size(-1))


def halved(name: str, weight: Tensor) -> Tensor:
    """float16. ValueError if it does not fit."""
    half = weight.half()
    require(bool(torch.isfinite(half).all()), f"weight {name} reaches {weight.abs().max().item():g}, float16 holds 65504; lower the "
            "training's rates")
    return half


def correct(matrices: dict[str, Quantized], state: dict[str, Tensor], settings: Settings) -> None:
    """Low-rank corrections for the matrices with the largest errors, in place."""
    options = settings.low_rank
    norms = {name: low_rank.residual(as_matrix(state[name]), quantized).norm().item() for name, quantized in matrices.items()}
    for name in low_rank.largest(norms, options.matrices):
        matrices[name] = low_rank.correct(matrices[name], as_matrix(state[name]), rank=options.rank, form=options.form,
                                          group=options.group)


class Solver:
    """Quantizes one matrix after the other; keeps the last factor, since query, key and value share their Hessian."""

    def __init__(self, hessians: dict[str, Tensor], settings: Settings, device: torch.device):
        self.hessians, self.settings, self.device = hessians, settings, device
        self.last: tuple[Tensor, gptq.Factor] | None = None
        self.raised: dict[str, float] = {}

    def quantize(self, name: str, weight_MK: Tensor, group_name: str, group: Group) -> Quantized:
        settings, hessian_KK = self.settings, self.hessians.get(name.removesuffix(".weight"))
        if group.method == "ternary":
            return ternary.quantize(weight_MK, group=settings.ternary.group)
        if group.method == "gptq" and hessian_KK is None:
            raise ValueError("it has no Hessian, only linear layers and the tables of the head have one; set the group's method to nearest")
        turn = {"block": settings.rotation.block, "seed": settings.rotation.seed} if group_name in settings.rotation.groups else None
        weight_MK = weight_MK.to(self.device)
        if turn:
            rotation.check(weight_MK.size(1), turn["block"])
            weight_MK = rotation.weight(weight_MK, **turn)
        if hessian_KK is not None:
            hessian_KK = hessian_KK.to(self.device)
            hessian_KK = rotation.hessian(hessian_KK, **turn) if turn else hessian_KK
        clips = [scales.clips(weight_MK, rule=group.scales, clip=clip, hessian_KK=hessian_KK, strength=settings.hessian_strength)
                 for clip in group.clips]
        candidates = [scales.steps(clip_M, bits=group.bits, clip_floor=settings.clip_floor, stored_as=settings.scales_as)
                      for clip_M in clips]
        if group.method == "nearest":
            quantized = nearest.quantize(weight_MK, bits=group.bits, candidates=candidates)
        else:
            quantized = gptq.quantize(weight_MK, self._factor(name, hessian_KK), bits=group.bits, candidates=candidates,
                                      block=settings.gptq.block)
        quantized = Quantized({suffix: array.cpu() for suffix, array in quantized.arrays.items()}, quantized.scheme)
        return rotation.marked(quantized, **turn) if turn else quantized

    def _factor(self, name: str, hessian_KK: Tensor) -> gptq.Factor:
        if self.last is None or not torch.equal(self.last[0], hessian_KK):
            options = self.settings.gptq
            self.last = hessian_KK, gptq.factorise(hessian_KK, damping=options.damping, sort_columns=options.sort_columns)
        factor = self.last[1]
        if factor.damping != self.settings.gptq.damping:
            self.raised[name] = factor.damping
        return factor
