"""The section `train` of params.yaml, and what no training can have. Units and sources: params.yaml."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.lib.node.params import require
from stages.lib.training.averages import Averages
from stages.train.optim.adamw import Options as AdamWOptions
from stages.train.optim.muon import Options as MuonOptions
from stages.train.optim.orthogonalise import BOUNDS, COEFFICIENTS


@dataclass(frozen=True)
class Split:
    """A learning rate of their own for the matrices of the first layers."""

    layers: int
    rate: float
    form: Literal["applied", "published"]


@dataclass(frozen=True)
class Quantization:
    """Rounding in the forward pass, late in training (qat.py)."""

    form: Literal["none", "straight_through", "soft_round"]
    bits: int
    threshold: float
    earliest_step: int
    ramp_steps: int
    scope: Literal["matrices", "projections"]
    min_step: float


@dataclass(frozen=True)
class AverageSettings:
    """Which running averages are kept (stages/lib/training/averages.py)."""

    ema: tuple[float, ...]
    swa_every: int
    swa_below: float
    lawa_every: int
    lawa_last: int
    power: tuple[float, ...]
    power_snapshots: int


@dataclass(frozen=True)
class TrainSettings:
    SECTION: ClassVar[str] = "train"
    seed: int
    steps: int
    seconds: float | None
    reserve_seconds: float
    clock: tuple[tuple[float, ...], ...]
    loader: str  # a file of stages/lib/tokens/loaders
    sequence_length: int
    batch_tokens: int
    micro_batch_tokens: int | None
    optimizer: Literal["muon", "adamw"]
    matrix_learning_rate: float
    embedding_learning_rate: float
    head_learning_rate: float
    scalar_learning_rate: float
    matrix_weight_decay: float
    embedding_weight_decay: float
    scalar_weight_decay: float
    weight_decay_taper_start: float
    weight_decay_taper_floor: float
    muon: MuonOptions
    adamw: AdamWOptions
    split: Split
    schedule: Literal["fraction", "iterations"]
    warmdown: float
    learning_rate_floor: float
    gradient_clip: float
    gradient_clip_scope: Literal["global", "process"]
    priming_steps: int
    qat: Quantization
    averages: AverageSettings
    holdout_every: int
    checkpoint_seconds: float
    compile: Literal["auto", "always", "never"]
    fused_loss: Literal["auto", "always", "never"]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    processes: int
    threads: int


AT_LEAST_ONE = ("steps", "holdout_every", "threads", "sequence_length", "batch_tokens", "processes", "muon.iterations")
AT_LEAST_ZERO = ("gradient_clip", "checkpoint_seconds", "muon.momentum_warmup_steps", "warmdown", "matrix_weight_decay",
                 "embedding_weight_decay", "scalar_weight_decay", "priming_steps", "reserve_seconds", "split.layers", "split.rate",
                 "qat.earliest_step", "qat.ramp_steps", "qat.min_step", "averages.swa_every", "averages.lawa_every",
                 "averages.power_snapshots", "matrix_learning_rate", "embedding_learning_rate", "head_learning_rate",
                 "scalar_learning_rate")
SHARES = ("learning_rate_floor", "weight_decay_taper_start", "weight_decay_taper_floor", "muon.momentum", "muon.momentum_start",
          "muon.neuron_beta2", "adamw.beta1", "adamw.beta2", "qat.threshold", "averages.swa_below")


def check(settings: TrainSettings) -> None:
    """ValueError for values that no training can have."""
    for names, low, high, what in ((AT_LEAST_ONE, 1, math.inf, "1 or more"), (AT_LEAST_ZERO, 0, math.inf, "0 or more"),
                                   (SHARES, 0, 1, "0 to 1")):
        for name in names:
            value = settings
            for part in name.split("."):
                value = getattr(value, part)
            require(low <= value <= high and value < math.inf, f"train.{name} is {value}; it takes {what}")
    require(settings.seconds is None or 0 < settings.seconds < math.inf,
            f"train.seconds is {settings.seconds}; it takes null or more than 0")
    require(settings.seconds is None or settings.reserve_seconds < settings.seconds,
            f"train.reserve_seconds {settings.reserve_seconds} leaves nothing of train.seconds {settings.seconds}; lower it")
    require(settings.schedule == "iterations" or settings.warmdown <= 1,
            f"train.warmdown is {settings.warmdown}; with train.schedule fraction it is a share of the budget, 0 to 1")
    require(settings.muon.coefficients in COEFFICIENTS,
            f"train.muon.coefficients is {settings.muon.coefficients!r}; it takes {' | '.join(COEFFICIENTS)}")
    require(settings.muon.bound in BOUNDS, f"train.muon.bound is {settings.muon.bound!r}; it takes {' | '.join(BOUNDS)}")
    require(settings.muon.neuron_beta2 < 1 and settings.adamw.beta1 < 1 and settings.adamw.beta2 < 1 and settings.adamw.epsilon > 0,
            "train.muon.neuron_beta2, train.adamw.beta1 and train.adamw.beta2 must be below 1, and train.adamw.epsilon above 0")
    require(2 <= settings.qat.bits <= 8, f"train.qat.bits is {settings.qat.bits}; it takes 2 to 8")
    require(settings.averages.lawa_every == 0 or settings.averages.lawa_last >= 1,
            "train.averages.lawa_last must be 1 or more where lawa_every is on")
    _check_clock(settings)
    Averages.check(settings.averages)


def _check_clock(settings: TrainSettings) -> None:
    knots = settings.clock
    require(not knots or settings.seconds is not None, "train.clock says how long steps take, but train.seconds is null, a budget in "
            "steps; set train.seconds, or train.clock to []")
    before = (0.0, 0.0)
    for knot in knots:
        require(len(knot) == 2 and knot[0] > before[0] and knot[1] > before[1] and max(knot) < math.inf,
                f"train.clock has {list(knot)} after {list(before)}; it takes [step, seconds] with both growing, or [] for real seconds")
        before = knot
