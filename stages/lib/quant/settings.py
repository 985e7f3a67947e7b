"""The section `quantize` of params.yaml, and what its parts must satisfy together."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch

from stages.lib.node.params import require
from stages.lib.quant import entropy_model
from stages.lib.quant.scales import limit, takes


@dataclass(frozen=True)
class Group:
    """How the tensors of one group are quantized. `clip`: one number, or a list of which the best is taken."""

    method: Literal["none", "nearest", "gptq", "ternary", "entropy"]
    bits: int
    scales: Literal["max", "percentile", "sigmas", "hessian_sigmas"]
    clip: float | tuple[float, ...]

    @property
    def clips(self) -> tuple[float, ...]:
        return self.clip if isinstance(self.clip, tuple) else (self.clip,)


@dataclass(frozen=True)
class Groups:
    embedding: Group
    attention: Group
    mlp: Group
    projection: Group
    table: Group


@dataclass(frozen=True)
class Gptq:
    damping: float
    block: int
    sort_columns: bool


@dataclass(frozen=True)
class Ternary:
    group: int


@dataclass(frozen=True)
class Rotation:
    groups: tuple[str, ...]
    block: int
    seed: int


@dataclass(frozen=True)
class LowRank:
    matrices: int
    rank: int
    form: Literal["asymmetric", "symmetric"]
    group: int


@dataclass(frozen=True)
class Prune:
    codes: int
    groups: tuple[str, ...]


@dataclass(frozen=True)
class QuantizeSettings:
    SECTION: ClassVar[str] = "quantize"
    device: str
    min_elements: int
    groups: Groups
    overrides: tuple[dict, ...]
    clip_floor: float
    hessian_strength: float
    scales_as: Literal["float16", "float8"]
    gptq: Gptq
    entropy: entropy_model.EntropySettings
    ternary: Ternary
    rotation: Rotation
    low_rank: LowRank
    prune: Prune


def check(settings: QuantizeSettings) -> None:
    """ValueError for the first value that cannot work, with its path."""
    names = [field.name for field in fields(Groups)]
    for name in names:
        check_group(getattr(settings.groups, name), f"quantize.groups.{name}")
    require(settings.device in ("auto", "cpu", "cuda"), f"quantize.device is {settings.device!r}; it takes auto | cpu | cuda")
    require(settings.device != "cuda" or torch.cuda.is_available(), "quantize.device is cuda, but torch sees no GPU; set it to auto or cpu")
    require(settings.min_elements >= 1, f"quantize.min_elements is {settings.min_elements}; it takes 1 or more")
    for path in ("clip_floor", "hessian_strength"):
        require(0 <= getattr(settings, path) < math.inf, f"quantize.{path} is {getattr(settings, path)}; it takes 0 or more")
    require(0 <= settings.gptq.damping < math.inf, f"quantize.gptq.damping is {settings.gptq.damping}; it takes 0 or more")
    require(settings.gptq.block >= 1, f"quantize.gptq.block is {settings.gptq.block}; it takes 1 or more")
    entropy_model.check(settings.entropy)
    require(0 <= settings.rotation.seed < 1 << 63, f"quantize.rotation.seed is {settings.rotation.seed}; it takes 0 or more")
    for path in ("low_rank.matrices", "prune.codes"):
        part, leaf = path.split(".")
        value = getattr(getattr(settings, part), leaf)
        require(value >= 0, f"quantize.{path} is {value}; it takes 0 (off) or more")
    require(settings.low_rank.group >= 1, f"quantize.low_rank.group is {settings.low_rank.group}; it takes 1 or more")
    for path, chosen in (("rotation.groups", settings.rotation.groups), ("prune.groups", settings.prune.groups)):
        for name in chosen:
            require(name in names, f"quantize.{path} has {name!r}; the groups are {', '.join(names)}")


def check_group(group: Group, path: str) -> None:
    """The same for one group; `path` is used in the sentence."""
    try:
        limit(group.bits)
    except ValueError as error:
        raise ValueError(f"{path}.bits: {error}") from None
    top = 1.0 if group.scales == "percentile" else math.inf
    require(bool(group.clips), f"{path}.clip is an empty list; give at least one number")
    for clip in group.clips:
        require(0 < clip <= top and clip < math.inf,
                f"{path}.clip has {clip}; {group.scales} takes {takes(group.scales)}")
