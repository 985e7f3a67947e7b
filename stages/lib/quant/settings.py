"""The section `quantize` of params.yaml, and the rules that its parts must satisfy together."""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from stages.lib.node import launch
from stages.lib.node.params import AtLeastOne, AtLeastZero, Device, NonNegative, Positive, Seed, Share, require
from stages.lib.node.plugin_names import PluginName
from stages.lib.quant.scales import takes

METHODS = "stages.lib.quant.methods"


@dataclass(frozen=True)
class EntropySettings:
    """Settings of the method `entropy`; params.yaml explains each field."""

    SECTION: ClassVar[str] = "quantize.entropy"
    bits_per_weight: Annotated[float, Interval(gt=0, le=16)]
    target_bytes: AtLeastOne | Literal["auto"] | None
    trellis: Literal[0, 4, 8, 16, 32]
    column_steps: bool
    row_steps: Literal["none", "std", "gradient"]
    frequency_exponent: Share
    gain: bool
    damping: NonNegative
    rate_distortion: NonNegative


@dataclass(frozen=True)
class Group:
    """How the tensors of one group are quantized. `method`: none, or a file of stages/lib/quant/methods. `clip`: one number, or a list from
    which the best is taken."""

    method: Annotated[str, PluginName(METHODS, "none")]
    bits: Annotated[int, Interval(ge=2, le=8)]
    scales: Literal["max", "percentile", "sigmas", "hessian_sigmas"]
    clip: Positive | tuple[Positive, ...]

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
    damping: NonNegative
    dampings: Annotated[int, Interval(ge=1, le=2)]
    block: AtLeastOne
    sort_columns: bool


@dataclass(frozen=True)
class Awq:
    groups: AtLeastZero
    columns: AtLeastOne
    bits: Annotated[int, Interval(ge=2, le=8)]
    min_elements: AtLeastOne


@dataclass(frozen=True)
class Ternary:
    group: AtLeastOne


@dataclass(frozen=True)
class Rotation:
    groups: tuple[str, ...]
    block: AtLeastOne
    seed: Seed


@dataclass(frozen=True)
class LowRank:
    matrices: AtLeastZero
    rank: AtLeastOne
    form: Literal["asymmetric", "symmetric"]
    group: AtLeastOne


@dataclass(frozen=True)
class Prune:
    codes: AtLeastZero
    groups: tuple[str, ...]


ROW_BITS = 3.5  # most bits that a scale of a row may cost on average


@dataclass(frozen=True)
class Tuning:
    """Settings of tuning.py; params.yaml explains each field."""

    steps: AtLeastZero
    rows: bool
    batch_tokens: AtLeastOne
    sequence_length: AtLeastOne
    learning_rate: Positive

    def reserved_bits(self, rows: int) -> float:
        """Bits for the scales that so many rows of matrices without scales will get."""
        return ROW_BITS * rows if self.steps and self.rows else 0.0


@dataclass(frozen=True)
class QuantizeSettings:
    SECTION: ClassVar[str] = "quantize"
    device: Device
    min_elements: AtLeastOne
    groups: Groups
    overrides: tuple[dict, ...]
    clip_floor: NonNegative
    hessian_strength: NonNegative
    scales_as: Literal["float16", "float8"]
    gptq: Gptq
    entropy: EntropySettings
    awq: Awq
    ternary: Ternary
    rotation: Rotation
    low_rank: LowRank
    prune: Prune
    tuning: Tuning


def check(settings: QuantizeSettings) -> None:
    """ValueError for parameters that do not fit together, or that this machine cannot run."""
    names = [field.name for field in fields(Groups)]
    for name in names:
        check_group(getattr(settings.groups, name), f"quantize.groups.{name}")
    launch.device_type(settings.device, section="quantize")
    for path, chosen in (("rotation.groups", settings.rotation.groups), ("prune.groups", settings.prune.groups)):
        for name in chosen:
            require(name in names, f"quantize.{path} has {name!r}; the groups are {', '.join(names)}")


def check_group(group: Group, path: str) -> None:
    """The same for one group. `path` is used in the error message."""
    require(bool(group.clips), f"{path}.clip is an empty list; give at least one number")
    for clip in group.clips:
        require(clip <= 1 or group.scales != "percentile", f"{path}.clip has {clip}; {group.scales} takes {takes(group.scales)}")
