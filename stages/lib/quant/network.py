"""Quantize the weights of one network: choose a method for each tensor, then apply the corrections that compare all tensors.

    for each tensor of a group: rotate, choose steps, round;   then make the cheapest codes zero;   then correct the largest errors

Tensors in no group, with method none, or with fewer than `min_elements` elements stay float16.
"""

import fnmatch
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stages.lib.node import params
from stages.lib.node.params import require
from stages.lib.quant.methods import Job
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.settings import METHODS, Group, QuantizeSettings, check_group
from stages.runtime.base import plugin


@dataclass
class Result:
    """Quantized matrices by name, with the group and settings of each; float16 tensors; dampings that had to be raised; the Budget
    (entropy_model.py) of the matrices that share one, if there are any; and what tuning.py reports."""

    matrices: dict[str, Quantized] = field(default_factory=dict)
    groups: dict[str, tuple[str, Group]] = field(default_factory=dict)
    float16: dict[str, Tensor] = field(default_factory=dict)
    damping: dict[str, float] = field(default_factory=dict)
    budget: Any = None
    tuning: dict | None = None

    def stored(self) -> dict[str, Tensor]:
        """All stored tensors, integers before floats, then by suffix, then by kind, so that similar arrays are adjacent and compress
        better.
        """
        found = dict(self.float16)
        for name, quantized in self.matrices.items():
            found |= quantized.stored(name)
        order = sorted(found, key=lambda name: (found[name].is_floating_point(), name.rsplit(".", 1)[-1], _kind(name), name))
        return {name: found[name] for name in order}

    def schemes(self) -> dict[str, dict]:
        """How codes are turned back into weights, for matrices that have more than codes and a scale for each row."""
        return {name: quantized.scheme for name, quantized in self.matrices.items() if quantized.scheme}


def _kind(name: str) -> str:
    """The name without its layer number."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def quantize(
    state: dict[str, Tensor],
    group_of: dict[str, str],
    hessians: dict[str, Tensor],
    settings: QuantizeSettings,
    *,
    rows: dict[str, Tensor],
    multipliers: dict[str, float],
    device: torch.device,
    facts: dict | None = None,
) -> Result:
    """Quantize all of `state`. `group_of` is by parameter, `hessians` and `rows` (gradients and counts) are by module, `multipliers` of the
    steps are by parameter. `facts`: the configuration and the number of tokens of the Hessians, which awq_lite needs. ValueError names a
    tensor that cannot be quantized as asked."""
    result = Result()
    kept = {"network": (state, result.groups, hessians, facts)}
    for name, weight in state.items():
        require(bool(torch.isfinite(weight).all()), f"weight {name} is not finite; lower the training's rates, or train again")
        group = own_settings(name, group_of.get(name), settings)
        if group is None or group.method == "none" or weight.numel() < settings.min_elements:
            result.float16[name] = halved(name, weight)
        else:
            result.groups[name] = group_of[name], group
    methods = {name: plugin.load_from(METHODS, group.method) for name, (_, group) in result.groups.items()}
    together = {name: method for name, method in methods.items() if hasattr(method, "quantize_together")}
    for name in tqdm([name for name in methods if name not in together], desc="quantize", unit=" matrices", mininterval=1.0):
        try:
            result.matrices[name] = quantize_one(
                methods[name],
                name,
                as_matrix(state[name]),
                *result.groups[name],
                hessian_KK=hessians.get(name.removesuffix(".weight")),
                settings=settings,
                kept=kept,
                device=device,
            )
        except ValueError as error:
            raise ValueError(f"{name} (quantize.groups.{result.groups[name][0]}): {error}") from None
    result.damping = kept.get("damping", {})
    for method in dict.fromkeys(together.values()):
        names = [name for name in together if together[name] is method]
        turned = [name for name in names if result.groups[name][0] in settings.rotation.groups]
        require(
            not turned,
            f"{', '.join(turned[:1])} has the method {method.__name__.rpartition('.')[2]}, which takes no rotation; take its "
            "group out of quantize.rotation.groups",
        )
        result.budget = method.quantize_together(
            {name: as_matrix(state[name]) for name in names},
            hessians=hessians,
            rows=rows,
            multipliers=multipliers,
            settings=settings,
            others=result.matrices,
            rest_bits=sum(16.0 * weight.numel() for weight in result.float16.values()),
            device=device,
        )
        result.matrices |= result.budget.quantized
    result.matrices = {name: result.matrices[name] for name in result.groups}
    # the corrections are packed into the one script only if they are on
    if settings.prune.codes:
        from stages.lib.quant import prune

        pruned = {name: quantized for name, quantized in result.matrices.items() if group_of[name] in settings.prune.groups}
        result.matrices |= prune.cheapest(pruned, settings.prune.codes)
    if settings.low_rank.matrices:
        correct(result.matrices, state, settings)
    return result


def own_settings(name: str, group: str | None, settings: QuantizeSettings) -> Group | None:
    """The settings of the group, with every override whose pattern matches the name; later ones win. None if the tensor is in no group."""
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
    """The weight as (M, K): unchanged, or the layers and heads of a gate stacked into rows."""
    return weight.reshape(-1, weight.size(-1))


def halved(name: str, weight: Tensor) -> Tensor:
    """The weight as float16. ValueError if a value is out of range."""
    half = weight.half()
    require(
        bool(torch.isfinite(half).all()),
        f"weight {name} reaches {weight.abs().max().item():g}, float16 holds 65504; lower the training's rates",
    )
    return half


def correct(matrices: dict[str, Quantized], state: dict[str, Tensor], settings: QuantizeSettings) -> None:
    """Add low-rank corrections to the matrices with the largest errors, in place."""
    from stages.lib.quant import low_rank

    options = settings.low_rank
    norms = {name: low_rank.residual(as_matrix(state[name]), quantized).norm().item() for name, quantized in matrices.items()}
    for name in low_rank.largest(norms, options.matrices):
        matrices[name] = low_rank.correct(matrices[name], as_matrix(state[name]), rank=options.rank, form=options.form, group=options.group)


def quantize_one(
    method,
    name: str,
    weight_MK: Tensor,
    group_name: str,
    group: Group,
    *,
    hessian_KK: Tensor | None,
    settings: QuantizeSettings,
    kept: dict,
    device: torch.device,
) -> Quantized:
    """Quantize one matrix on the device by a method of the first kind (methods/__init__.py). The result is on the CPU."""
    if method.NEEDS_HESSIAN and hessian_KK is None:
        raise ValueError("it has no Hessian, only linear layers and the tables of the head have one; set the group's method to nearest")
    is_rotated = method.ROTATES and group_name in settings.rotation.groups
    turn = {"block": settings.rotation.block, "seed": settings.rotation.seed}
    weight_MK = weight_MK.to(device)
    hessian_KK = None if hessian_KK is None else hessian_KK.to(device)
    if is_rotated:
        from stages.lib.quant import rotation

        rotation.check(weight_MK.size(1), turn["block"])
        weight_MK = rotation.weight(weight_MK, **turn)
        hessian_KK = None if hessian_KK is None else rotation.hessian(hessian_KK, **turn)
    quantized = method.quantize_one(Job(name, weight_MK, hessian_KK, group, settings, kept))
    quantized = Quantized({suffix: array.cpu() for suffix, array in quantized.arrays.items()}, quantized.scheme)
    return rotation.marked(quantized, **turn) if is_rotated else quantized
