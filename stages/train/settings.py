"""The section `train` of params.yaml, and the checks that hold for every training. Units and sources are in params.yaml."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from stages.lib.node.params import AtLeastOne, AtLeastZero, Decay, Device, NonNegative, Positive, Seed, Share, require
from stages.lib.node.plugin_names import PluginName
from stages.lib.training.averages import Averages
from stages.train import techniques
from stages.train.optim.adamw import Options as AdamWOptions
from stages.train.optim.muon import Options as MuonOptions

LOADERS = "stages.lib.tokens.loaders"


@dataclass(frozen=True)
class Split:
    """A separate learning rate for the matrices of the first layers."""

    layers: AtLeastZero
    rate: NonNegative
    form: Literal["applied", "published"]


@dataclass(frozen=True)
class Quantization:
    """Rounding in the forward pass, late in training (qat.py)."""

    form: Literal["none", "straight_through", "soft_round"]
    bits: Annotated[int, Interval(ge=2, le=8)]
    threshold: Share
    earliest_step: AtLeastZero
    ramp_steps: AtLeastZero
    scope: Literal["matrices", "projections"]
    min_step: NonNegative


@dataclass(frozen=True)
class AverageSettings:
    """Which running averages are kept (stages/lib/training/averages.py)."""

    ema: tuple[Decay, ...]
    swa_every: AtLeastZero
    swa_below: Share
    lawa_every: AtLeastZero
    lawa_last: AtLeastZero
    power: tuple[Annotated[float, Interval(gt=0, lt=1000)], ...]
    power_snapshots: AtLeastZero


@dataclass(frozen=True)
class Adoption:
    """Weights that were trained elsewhere, in the place of a training (adoption.py). `path` null: off."""

    path: str | None
    stack: str | None
    sha256: str | None


@dataclass(frozen=True)
class TrainSettings:
    SECTION: ClassVar[str] = "train"
    adopt: Adoption
    seed: Seed
    steps: AtLeastOne
    seconds: Positive | None
    reserve_seconds: NonNegative
    clock: tuple[tuple[float, ...], ...]
    loader: Annotated[str, PluginName(LOADERS)]
    sequence_length: AtLeastOne
    context: tuple[tuple[float, ...], ...]
    context_warmup_steps: AtLeastOne
    batch_tokens: AtLeastOne
    micro_batch_tokens: AtLeastOne | None
    optimizer: Literal["muon", "adamw"]
    matrix_learning_rate: NonNegative
    embedding_learning_rate: NonNegative
    head_learning_rate: NonNegative
    scalar_learning_rate: NonNegative
    matrix_weight_decay: NonNegative
    embedding_weight_decay: NonNegative
    scalar_weight_decay: NonNegative
    weight_decay_taper_start: Share
    weight_decay_taper_floor: Share
    muon: MuonOptions
    adamw: AdamWOptions
    split: Split
    schedule: Literal["fraction", "iterations"]
    warmdown: NonNegative
    learning_rate_floor: Share
    gradient_clip: NonNegative
    gradient_clip_scope: Literal["global", "process"]
    priming_steps: AtLeastZero
    qat: Quantization
    techniques: dict
    averages: AverageSettings
    holdout_every: AtLeastOne
    checkpoint_seconds: NonNegative
    live: bool
    compile: Literal["auto", "always", "never"]
    fused_loss: Literal["auto", "always", "never"]
    device: Device
    precision: Literal["auto", "fp32", "bf16"]
    processes: AtLeastOne
    threads: AtLeastOne


def check(settings: TrainSettings) -> None:
    """ValueError for parameters that do not fit together."""
    require(
        settings.seconds is None or settings.reserve_seconds < settings.seconds,
        f"train.reserve_seconds {settings.reserve_seconds} leaves nothing of train.seconds {settings.seconds}; lower it",
    )
    require(
        settings.schedule == "iterations" or settings.warmdown <= 1,
        f"train.warmdown is {settings.warmdown}; with train.schedule fraction it is a share of the budget, 0 to 1",
    )
    require(
        settings.averages.lawa_every == 0 or settings.averages.lawa_last >= 1,
        "train.averages.lawa_last must be 1 or more where lawa_every is on",
    )
    _check_clock(settings)
    techniques.options(settings.techniques)
    Averages.check(settings.averages)


def _check_clock(settings: TrainSettings) -> None:
    knots = settings.clock
    require(
        not knots or settings.seconds is not None,
        "train.clock says how long steps take, but train.seconds is null, a budget in steps; set train.seconds, or train.clock to []",
    )
    before = (0.0, 0.0)
    for knot in knots:
        require(
            len(knot) == 2 and knot[0] > before[0] and knot[1] > before[1] and max(knot) < math.inf,
            f"train.clock has {list(knot)} after {list(before)}; it takes [step, seconds] with both growing, or [] for real seconds",
        )
        before = knot
