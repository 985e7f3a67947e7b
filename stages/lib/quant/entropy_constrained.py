"""Quantization for codes that are entropy coded afterwards: the least output error for a given number of coded bits.

It is GPTQ's recursion with four changes, each of which can be switched off:

    step(i,j) = step · 2^((r_i + b_j)/8)       no clamp: codes may be of any size, the coder has an escape
    b_j = round(8 log2 U_jj / mean)            column steps: each input's step follows its own share of the error (WaterSIC)
    r_i                                        row steps, from the cost of an error in the row (`row_steps`)
    p_j = trellis search down column j         levels on a grid of half steps, see runtime/weights/trellis.py; without: rounding
    ŵ_j = gain_j p_j step(·,j) / 2             the least-squares gain, which the decoder computes from the levels
    e_j = (w_j - ŵ_j) / U_jj;   w_m <- w_m - e_j U_jm   for m after j in the order of decreasing diag(H)

U is the upper Cholesky factor of H⁻¹, where H is damped. Sources: GPTQ arXiv:2210.17323; column steps arXiv:2603.04956. A trellis can be
used inside the recursion because rows do not affect each other, so each column is an ordinary source sequence for it.
"""

# N matrices of one shape, M rows, K columns, C columns of a block

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.lib.quant import trellis_search
from stages.lib.quant.quantized import Quantized, smallest_integers
from stages.runtime.weights import dequantize

ROW_RULES = ("none", "std", "gradient")
FLOOR = 0.02  # share of the mean that is added to row weights, so that rows that no calibration token used are still coded
BLOCK = 128  # columns per lazy update; affects only the speed


@dataclass(frozen=True)
class Options:
    """Which parts are switched on. `trellis`: 0 | 4 | 8 | 16 | 32 states. `damping`: a share of mean diag(H). `rate_distortion`: how much
    error, in squared steps, a saved bit is worth when levels are chosen (0: none; 0.1155 is the slope of fine rounding)."""

    trellis: int
    column_steps: bool
    gain: bool
    damping: float
    rate_distortion: float

    @property
    def scheme(self) -> dict:
        return ({"trellis": self.trellis} if self.trellis else {}) | ({"gain": True} if self.gain else {})


@dataclass(frozen=True)
class Factor:
    """A factorised H, usable for any number of quantizations: columns in visiting order, U (K, K) in that order, and the dead inputs."""

    order: Tensor
    upper_KK: Tensor
    column_steps: Tensor | None
    dead: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Factor":
        steps = None if self.column_steps is None else self.column_steps.to(device)
        return Factor(self.order.to(device), self.upper_KK.to(device, dtype), steps, self.dead.to(device))


@dataclass(frozen=True)
class Rounded:
    """Levels of N matrices (N, M, K), integers in steps or, with a trellis, in half steps; the error of each column in the recursion, Σ_i
    e_ij² (N, K), whose sum is tr((W - Ŵ) H (W - Ŵ)') with H damped; and Ŵ (N, M, K)."""

    levels: Tensor
    losses: Tensor
    weights: Tensor


def factorise(hessian_KK: Tensor, options: Options) -> Factor:
    """Damp, order and factorise H in float64. ValueError if H is not finite, is all zero or is not positive definite.

    With the order reversed, H = R R' with R upper, and U = R⁻¹. This takes one factorisation and one triangular inverse.
    """
    hessian = hessian_KK.double()
    if not torch.isfinite(hessian).all():
        raise ValueError("a Hessian is not finite; the weights or the calibration text are damaged, run: dvc repro calibrate -f")
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    if dead.all():
        raise ValueError("a Hessian is all zero: no calibration token reached this matrix; quantize its group with method nearest")
    order = torch.argsort(diagonal, descending=True, stable=True)
    backwards = order.flip(0)
    damped = hessian[backwards][:, backwards]
    damped.diagonal().add_(options.damping * diagonal.mean())
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError(
            f"a Hessian is not positive definite with quantize.entropy.damping {options.damping}; raise it (0.005 to 0.05), "
            "or calibrate.sequences"
        )
    identity = torch.eye(len(order), dtype=torch.float64, device=hessian.device)
    upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)
    steps = None
    if options.column_steps:
        sorted_steps = eighths(upper.diagonal())
        steps = torch.empty_like(sorted_steps)
        steps[order] = sorted_steps
    return Factor(order, upper, steps, dead)


def eighths(steps: Tensor) -> Tensor:
    """Positive steps relative to their geometric mean, in eighths of an octave, int8. Clamped at about 16 octaves from the mean."""
    octaves = torch.log2(steps.double())
    return (8 * (octaves - octaves.mean())).round().clamp(-127, 127).to(torch.int8)


def row_steps(weight_MK: Tensor, *, rule: str, importance_M: Tensor | None) -> Tensor | None:
    """Row steps in eighths of an octave, int8 (M,), or None for a single step.

    std: proportional to the row's width, as with clipping by standard deviations. gradient: importance^(-1/2), where `importance_M` is the
    mean squared gradient of the loss by the row's output. An error costs importance · error², so rows with cheap errors get larger steps.
    """
    if rule == "none":
        return None
    if rule == "std":
        spread_M = weight_MK.double().square().mean(dim=1)
    elif rule == "gradient":
        if importance_M is None:
            raise ValueError(
                "quantize.entropy.row_steps is gradient, but there are no row gradients; set calibrate.row_gradients, or take std or none"
            )
        spread_M = 1.0 / _floored(importance_M)
    else:
        raise ValueError(f"quantize.entropy.row_steps is {rule!r}; it takes {' | '.join(ROW_RULES)}")
    return eighths(_floored(spread_M).sqrt()) if rule == "std" else eighths(spread_M.sqrt())


def token_row_steps(counts_V: Tensor, *, exponent: float) -> Tensor:
    """Row steps of a token table, int8 (V,): frequency^(-exponent). Frequent tokens get finer steps."""
    return eighths(_floored(counts_V).pow(-exponent))


def _floored(values: Tensor) -> Tensor:
    values = values.double()
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError("row weights must be finite and not negative; run: dvc repro calibrate -f")
    mean = values.mean()
    return values + FLOOR * mean if mean > 0 else torch.ones_like(values)


def quantize(weight_MK: Tensor, hessian_KK: Tensor, *, step: float, row_steps_M: Tensor | None, options: Options) -> Quantized:
    """Quantize one matrix. For many matrices of one shape, `quantize_alike` is several times as fast."""
    return quantize_alike([weight_MK], [factorise(hessian_KK, options)], steps=[step], row_steps=[row_steps_M], options=options)[0]


def quantize_alike(
    weights: list[Tensor], factors: list[Factor], *, steps: list[float], row_steps: list[Tensor | None], options: Options
) -> list[Quantized]:
    """Quantize matrices of one shape, each with its own Hessian, step and row steps (all with row steps, or none)."""
    rounded = round_alike(weights, factors, steps=steps, row_steps=row_steps, options=options, dtype=torch.float32)
    out = []
    for levels_MK, factor, step, rows in zip(rounded.levels, factors, steps, row_steps, strict=True):
        codes_MK = levels_MK.div(2, rounding_mode="floor") if options.trellis else levels_MK
        arrays = {"codes": smallest_integers(codes_MK).cpu(), "step": torch.tensor(step, dtype=torch.float32)}
        arrays |= {} if rows is None else {"row_steps": rows.cpu()}
        arrays |= {} if factor.column_steps is None else {"column_steps": factor.column_steps.clone().cpu()}
        out.append(Quantized(arrays, options.scheme))
    return out


def round_alike(
    weights: list[Tensor],
    factors: list[Factor],
    *,
    steps: list[float],
    row_steps: list[Tensor | None],
    options: Options,
    dtype: torch.dtype,
) -> Rounded:
    """Run the recursion on the device of the weights. float32 is enough if U was factorised in float64."""
    weight_NKM = torch.stack([weight.to(dtype) for weight in weights]).mT.contiguous()
    if not torch.isfinite(weight_NKM).all():
        raise ValueError("weights are not finite; lower the learning rates and train again")
    if not all(0 < step < torch.inf for step in steps):
        raise ValueError(f"quantization steps must be positive and finite, not {steps}")
    device = weight_NKM.device
    N, K, M = weight_NKM.shape
    factors = [factor.to(device, dtype) for factor in factors]
    upper_NKK = torch.stack([factor.upper_KK for factor in factors])
    order_NK = torch.stack([factor.order for factor in factors])
    weight_NKM[torch.stack([factor.dead for factor in factors])] = 0.0
    work_NKM = weight_NKM.gather(1, order_NK[:, :, None].expand(N, K, M))
    row_NM = torch.stack([_row_scales(step, rows, M) for step, rows in zip(steps, row_steps, strict=True)]).to(device, dtype)
    column_NK = torch.stack(
        [
            torch.ones(K, device=device) if factor.column_steps is None else _octaves(factor.column_steps[factor.order]).to(device)
            for factor in factors
        ]
    ).to(dtype)
    level_NKM, losses_NK = torch.empty_like(work_NKM), torch.empty(N, K, dtype=dtype, device=device)
    for start in range(0, K, BLOCK):
        stop = min(start + BLOCK, K)
        error_NCM = work_NKM.new_empty(N, stop - start, M)
        for j in range(start, stop):
            scale_NM = row_NM * column_NK[:, j, None]
            level_NKM[:, j] = _levels(work_NKM[:, j] / scale_NM, options)
            restored_NM = scale_NM * level_NKM[:, j] * (_gains(level_NKM[:, j], options) / (2 if options.trellis else 1)).to(dtype)
            error_NM = (work_NKM[:, j] - restored_NM) / upper_NKK[:, j, j, None]
            work_NKM[:, j] = restored_NM
            work_NKM[:, j + 1 : stop].addcmul_(upper_NKK[:, j, j + 1 : stop, None], error_NM[:, None], value=-1)
            error_NCM[:, j - start] = error_NM
        losses_NK[:, start:stop] = error_NCM.square().sum(dim=2)
        work_NKM[:, stop:].baddbmm_(upper_NKK[:, start:stop, stop:].mT, error_NCM, alpha=-1)
    back_NKM = torch.argsort(order_NK, dim=1)[:, :, None].expand(N, K, M)
    return Rounded(level_NKM.gather(1, back_NKM).mT.long(), losses_NK, work_NKM.gather(1, back_NKM).mT)


def _levels(target_NM: Tensor, options: Options) -> Tensor:
    """Targets in steps to levels: integers, or half steps along a trellis.

    A Gaussian column costs z² log2(e) / (2 σ²) bits and a constant, so error plus bits is least for targets shrunk a little.
    """
    if options.rate_distortion:
        mean_N1 = target_NM.square().mean(dim=1, keepdim=True)
        target_NM = target_NM * (mean_N1 / (mean_N1 + 0.7213475 * options.rate_distortion).clamp_min(1e-30))
    return trellis_search.search(2 * target_NM, states=options.trellis) if options.trellis else torch.round(target_NM)


def _gains(level_NM: Tensor, options: Options) -> Tensor:
    """The gain of one column of each matrix, float64 (N, 1), as the decoder will find it."""
    if not options.gain:
        return torch.ones(len(level_NM), 1, dtype=torch.float64, device=level_NM.device)
    squares_N1 = level_NM.double().square().sum(dim=1, keepdim=True)
    return dequantize.gains(squares_N1, rows=level_NM.size(1), states=options.trellis)


def _row_scales(step: float, rows: Tensor | None, num_rows: int) -> Tensor:
    scale = torch.full((num_rows,), step, dtype=torch.float32)
    return scale if rows is None else scale * _octaves(rows)


def _octaves(steps: Tensor) -> Tensor:
    return torch.from_numpy(dequantize.octaves(steps.cpu().numpy()))
