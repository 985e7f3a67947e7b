"""The section `quantize` of params.yaml, and what its parts must satisfy together."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch

from stages.lib.node.params import require
from stages.lib.quant.scales import limit, takes
from stages.runtime.base import plugin

METHODS = "stages.lib.quant.methods"


@dataclass(frozen=True)
class EntropySettings:
    """The method `entropy`; params.yaml says what each leaf is."""

    SECTION: ClassVar[str] = "quantize.entropy"
    bits_per_weight: float
    target_bytes: int | Literal["auto"] | None
    trellis: Literal[0, 4, 8, 16, 32]
    column_steps: bool
    row_steps: Literal["none", "std", "gradient"]
    frequency_exponent: float
    gain: bool
    damping: float
    rate_distortion: float


@dataclass(frozen=True)
class Group:
    """How the tensors of one group are quantized. `method`: none, or a file of stages/lib/quant/methods. `clip`: one number, or a list of
    which the best is taken."""

    method: str
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
    entropy: EntropySettings
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
    check_entropy(settings.entropy)
    require(0 <= settings.rotation.seed < 1 << 63, f"quantize.rotation.seed is {settings.rotation.seed}; it takes 0 or more")
    for path in ("low_rank.matrices", "prune.codes"):
        part, leaf = path.split(".")
        value = getattr(getattr(settings, part), leaf)
        require(value >= 0, f"quantize.{path} is {value}; it takes 0 (off) or more")
    require(settings.low_rank.group >= 1, f"quantize.low_rank.group is {settings.low_rank.group}; it takes 1 or more")
    for path, chosen in (("rotation.groups", settings.rotation.groups), ("prune.groups", settings.prune.groups)):
        for name in chosen:
            require(name in names, f"quantize.{path} has {name!r}; the groups are {', '.join(names)}")


def check_entropy(settings: EntropySettings) -> None:
    """The same for the method `entropy`."""
    path = "quantize.entropy"
    require(0 <= settings.frequency_exponent <= 1, f"{path}.frequency_exponent is {settings.frequency_exponent}; it takes 0 (off) to 1")
    require(0 < settings.bits_per_weight <= 16, f"{path}.bits_per_weight is {settings.bits_per_weight}; it takes more than 0, up to 16")
    require(not isinstance(settings.target_bytes, int) or settings.target_bytes >= 1,
            f"{path}.target_bytes is {settings.target_bytes}; it takes null (bits_per_weight) | auto | bytes")
    require(0 <= settings.damping < math.inf and 0 <= settings.rate_distortion < math.inf,
            f"{path}.damping and rate_distortion take 0 or more; reference values are 0.005 and 0.0")


def check_group(group: Group, path: str) -> None:
    """The same for one group; `path` is used in the sentence."""
    methods = plugin.names_in(METHODS)
    require(group.method in ("none", *methods), f"{path}.method is {group.method!r}; it takes none | {' | '.join(methods)}")
    try:
        limit(group.bits)
    except ValueError as error:
        raise ValueError(f"{path}.bits: {error}") from None
    top = 1.0 if group.scales == "percentile" else math.inf
    require(bool(group.clips), f"{path}.clip is an empty list; give at least one number")
    for clip in group.clips:
        require(0 < clip <= top and clip < math.inf,
                f"{path}.clip has {clip}; {group.scales} takes {takes(group.scales)}")
