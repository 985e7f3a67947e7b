"""Entropy-constrained quantization of all matrices of a model with one constant, and the search for the constant that meets a budget.

    step of matrix m = c · multiplier_m · rms(W_m)            multiplier 1: the same bits per weight for every matrix

The number of coded bits is a smooth function of c: doubling c saves one bit per weight. The search takes two to four passes.
"""

# M rows, K columns

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from stages.lib.quant import entropy_constrained, rate
from stages.lib.quant.entropy_constrained import Factor, Options
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.settings import EntropySettings

GAUSSIAN_BITS = 2.047  # log2 sqrt(2 pi e): entropy of a Gaussian in steps of its own standard deviation
COARSEST = 6.0  # octaves above the rms at which the search gives up; all codes are 0 far below it
FINEST = 10.0  # bits per weight beyond which nothing is gained, because float16 has no more precision
PASSES = 16
TOLERANCE = 0.001  # share of the budget that may stay unused: 16 kB of 16 MB
UNMET = 6  # passes without a result that fits, after which the coarsest steps are tried
BATCH_WEIGHTS = 1 << 25  # most weights of one shape that are quantized together; bounds the memory


@dataclass(frozen=True)
class Matrix:
    """One matrix: W (M, K); H (K, K), or None if nothing is known about the inputs; row steps int8 (M,) or None; and its multiplier."""

    weight: Tensor
    hessian: Tensor | None
    row_steps: Tensor | None
    multiplier: float


@dataclass(frozen=True)
class Budget:
    """The chosen constant, the quantized matrices, their measured bits, (constant, bits) of every pass, and the limit. `missed` is a
    sentence if the limit that was asked for could not be met. `reserved`: those of the bits that are for the tuning (tuning.py)."""

    constant: float
    quantized: dict[str, Quantized]
    bits: float
    passes: tuple[tuple[float, float], ...]
    limit: float
    missed: str | None = None
    reserved: float = 0.0

    def summary(self) -> dict:
        """The numbers for metrics.json."""
        return {
            "constant": self.constant,
            "estimated_bytes": round(self.bits / 8),
            "limit_bytes": round(self.limit / 8),
            "bits_per_weight": estimated(self.quantized).bits_per_weight,
            "missed": self.missed,
            "passes": [{"constant": constant, "estimated_bytes": round(bits / 8)} for constant, bits in self.passes],
        }


def options(settings: EntropySettings) -> Options:
    """The part of the settings that is the same for every constant. ValueError for values that are not possible."""
    return Options(settings.trellis, settings.column_steps, settings.gain, settings.damping, settings.rate_distortion)


def matrices(
    weights: dict[str, Tensor],
    hessians: dict[str, Tensor],
    rows: dict[str, Tensor],
    *,
    settings: EntropySettings,
    multipliers: dict[str, float],
) -> dict[str, Matrix]:
    """Every weight (M, K) by parameter name, with what calibration measured for it. `hessians` and `rows` are by module name.

    Row steps follow the rule `row_steps`. A table with counted look-ups gets them from `frequency_exponent` instead (unless that is 0) if
    it has no gradient or the rule is not `gradient`. With the rule `gradient`, a matrix with neither gradient nor counts has one step.
    """
    return {
        name: Matrix(
            weight, hessians.get(name.removesuffix(".weight")), _row_steps(name, weight, rows, settings), multipliers.get(name, 1.0)
        )
        for name, weight in weights.items()
    }


def _row_steps(name: str, weight_MK: Tensor, rows: dict[str, Tensor], settings: EntropySettings) -> Tensor | None:
    module, rule = name.removesuffix(".weight"), settings.row_steps
    counts, importance = rows.get(f"{module}.counts"), rows.get(module)
    if rule == "gradient" and importance is not None:
        return entropy_constrained.row_steps(weight_MK, rule=rule, importance_M=importance)
    if counts is not None and settings.frequency_exponent:
        return entropy_constrained.token_row_steps(counts, exponent=settings.frequency_exponent)
    has_gradients = any(not key.endswith(".counts") for key in rows)
    return entropy_constrained.row_steps(weight_MK, rule="none" if rule == "gradient" and has_gradients else rule, importance_M=None)


class Model:
    """Matrices by name with their factors, which every pass reuses. Works on `device`."""

    def __init__(self, matrices: dict[str, Matrix], *, options: Options, device: torch.device):
        if not matrices:
            raise ValueError("no matrix has the method entropy; set it for a group under quantize.groups")
        self.matrices, self.options, self.device = matrices, options, device
        self.scales = {name: _scale(name, matrix) for name, matrix in matrices.items()}
        self.factors: dict[str, Factor] = {}
        self.last: tuple[Tensor, Factor] | None = None
        for name, matrix in tqdm(matrices.items(), desc="factorise", unit=" matrices", mininterval=1.0):
            self.factors[name] = self._factor(name, matrix)
        self.num_weights = sum(matrix.weight.numel() for matrix in matrices.values())

    def quantize(self, constant: float, *, only: set[str] | None = None) -> dict[str, Quantized]:
        """Quantize all matrices, or those in `only`, with steps of constant · multiplier · rms."""
        out: dict[str, Quantized] = {}
        chosen = [name for name in self.matrices if only is None or name in only]
        for batch in tqdm(self._batches(chosen), desc="quantize", unit=" batches", mininterval=1.0):
            found = entropy_constrained.quantize_alike(
                [self.matrices[name].weight.to(self.device) for name in batch],
                [self.factors[name] for name in batch],
                steps=[constant * self.scales[name] for name in batch],
                row_steps=[self.matrices[name].row_steps for name in batch],
                options=self.options,
            )
            out |= dict(zip(batch, found, strict=True))
        return {name: out[name] for name in chosen}

    def scale(self, multipliers: dict[str, float]) -> None:
        """Multiply the steps of these matrices."""
        self.scales |= {name: self.scales[name] * multiplier for name, multiplier in multipliers.items()}

    def start(self, bits_per_weight: float) -> float:
        """The constant that would give this many bits per weight if every column were Gaussian. It is a good first guess."""
        octaves = 0.0
        for name, matrix in self.matrices.items():
            rms_K = matrix.weight.double().square().mean(dim=0).sqrt()
            octaves += matrix.weight.numel() * torch.log2((rms_K / self.scales[name]).clamp_min(2**-4)).mean().item()
        return 2.0 ** (octaves / self.num_weights + GAUSSIAN_BITS - bits_per_weight)

    def _factor(self, name: str, matrix: Matrix) -> Factor:
        K = matrix.weight.size(1)
        hessian = torch.eye(K) if matrix.hessian is None else matrix.hessian
        if hessian.shape != (K, K):
            raise ValueError(f"{name} has {K} inputs, its Hessian is {tuple(hessian.shape)}; run: dvc repro calibrate -f")
        if self.last is None or not torch.equal(self.last[0], hessian):  # query, key and value share one Hessian
            try:
                factor = entropy_constrained.factorise(hessian.to(self.device), self.options)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            self.last = hessian, factor.to(self.device, torch.float32)
        return self.last[1]

    def _batches(self, names: list[str]) -> list[list[str]]:
        """Names of matrices of one shape, together as far as memory allows."""
        alike = defaultdict(list)
        for name in names:
            M, K = self.matrices[name].weight.shape
            alike[M, K, self.matrices[name].row_steps is None].append(name)
        batches = []
        for (M, K, _), members in alike.items():
            size = max(1, BATCH_WEIGHTS // (M * K + K * K))
            batches += [members[i : i + size] for i in range(0, len(members), size)]
        return batches


def _scale(name: str, matrix: Matrix) -> float:
    rms = matrix.weight.double().square().mean().sqrt().item()
    if not math.isfinite(rms):
        raise ValueError(f"weight {name} is not finite; lower the training's rates, or train again")
    if not 0 < matrix.multiplier < math.inf:
        raise ValueError(f"the step of {name} has the multiplier {matrix.multiplier}; it must be positive, run: dvc repro -f sensitivity")
    return matrix.multiplier * max(rms, 2.0**-60)


def estimated(quantized: dict[str, Quantized]) -> rate.Rate:
    """The bits that an adaptive coder needs for these matrices, by rate.py."""
    arrays = {name: {suffix: array.numpy() for suffix, array in found.arrays.items()} for name, found in quantized.items()}
    return rate.estimate(arrays, {name: found.scheme for name, found in quantized.items()})


def finest(model: Model, *, limit: float, tolerance: float, bits_of: Callable[[dict[str, Quantized]], float]) -> Budget:
    """The finest quantization whose `bits_of` is at most `limit`, and within `tolerance` bits of it where the steps allow that.

    The search is Newton's step with a slope of one bit per weight and octave, then secants, inside a bracket. If even the coarsest steps
    need too many bits, the smallest quantization that was found is returned, and its `missed` says so.
    """
    count, goal = model.num_weights, limit - tolerance / 2
    octave = math.log2(model.start(max(goal / count, 0.1)))
    fine, coarse = -math.inf, math.inf  # the coarsest octave that is too fine, the finest that fits
    best = smallest = None
    passes: list[tuple[float, float]] = []
    previous, slope = None, float(count)
    for _ in range(PASSES):
        found = model.quantize(2.0**octave)
        bits = bits_of(found)
        passes.append((2.0**octave, bits))
        tried = Budget(2.0**octave, found, bits, (), limit)
        if bits <= limit and (best is None or bits > best.bits):
            best = tried
        if smallest is None or bits < smallest.bits:
            smallest = tried
        if limit - tolerance <= bits <= limit:
            break
        if bits > limit:
            fine = max(fine, octave)
            if octave >= COARSEST:
                break
        else:
            coarse = min(coarse, octave)
        if previous is not None and previous[0] != octave:
            slope = min(max((previous[1] - bits) / (octave - previous[0]), 0.1 * count), 1.2 * count)
        previous = octave, bits
        octave = min(octave + (bits - goal) / slope, COARSEST)
        if len(passes) == UNMET and math.isinf(coarse):
            octave = COARSEST  # the coarsest steps show whether the limit can be met at all
        if not fine < octave < coarse:
            octave = (fine + coarse) / 2 if math.isfinite(fine + coarse) else octave
        if coarse - fine < 1e-6:
            break
    if best is None:
        sentence = f"the matrices cannot be coded in {limit / 8:,.0f} bytes, the fewest found were {smallest.bits / 8:,.0f}"
        best = replace(smallest, missed=f"{sentence}; raise the target, or make the model smaller")
    return replace(best, passes=tuple(passes))


def within_budget(
    model: Model, *, settings: EntropySettings, others: dict[str, Quantized], rest_bits: float, reserved: float = 0.0
) -> Budget:
    """The finest quantization with `bits_per_weight`, side information included. If `target_bytes` is set, that is the limit instead, also
    for `others` (quantized by other methods) and `rest_bits`. Sizes are rate.py's estimates, and `reserved` bits for what is added later.
    No matrix is coded finer than FINEST.

    A target that cannot be met does not end the run: `bits_per_weight` counts in its place, and `missed` says so.
    """
    fixed, limit, missed = 0.0, settings.bits_per_weight * model.num_weights, None
    if settings.target_bytes is not None:
        if settings.target_bytes == "auto":
            raise AssertionError("the stage fill_cap decides what auto is")
        fixed = reserved + rest_bits + (estimated(others).bits if others else 0.0)
        target = min(8.0 * settings.target_bytes, fixed + FINEST * model.num_weights)
        if fixed < target:
            found = finest(model, limit=target, tolerance=TOLERANCE * target, bits_of=lambda found: fixed + estimated(found).bits)
            if not found.missed:
                return replace(found, reserved=reserved)
        missed = (
            f"quantize.entropy.target_bytes {settings.target_bytes:,} cannot be met, and what is not entropy constrained alone needs "
            f"{fixed / 8:,.0f} bytes; bits_per_weight {settings.bits_per_weight:g} counts instead: raise the target, or give more groups "
            "the method entropy"
        )
    found = finest(model, limit=limit, tolerance=TOLERANCE * limit, bits_of=lambda found: reserved + estimated(found).bits)
    return replace(found, missed=missed or found.missed, reserved=reserved)
