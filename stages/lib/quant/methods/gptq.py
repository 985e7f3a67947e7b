"""GPTQ: round column by column, and push each rounding error onto the columns that are still to come.

    H_jj <- 1 for dead columns;   H <- H + damping · mean(diag H) · I;   U = upper Cholesky factor of H⁻¹ (H⁻¹ = U'U)
    for column j:  q_j = clamp(round(w_j / s), -R, R);   e = (w_j - s q_j) / U_jj;   w_m <- w_m - e U_jm  for m > j

Columns are visited in the order of decreasing diag(H), or in their natural order. Dead columns (H_jj = 0) get weight 0, which costs nothing
to store, and count as 1 in the mean. In some entries H is damped once more, where it is collected (`dampings` 2); then no column is dead,
and all keep their weights. The factor is computed from H itself: with J the reversal, J H J = L L' gives H = R R' with R = J L J upper, and
U = R⁻¹. This is done in float64, because a Hessian of 2048 hidden units that rarely fire is close to singular.

Source: Frantar et al., arXiv:2210.17323; order and damping as in parameter-golf #1019 and after (there in float32, and H is divided by the
number of batches, which changes nothing but the weight of the ones).
"""

# M rows, K columns

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.lib.quant import gptq_lite
from stages.lib.quant.methods import Job
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.scales import Steps, limit

ROTATES, NEEDS_HESSIAN = True, True
LARGEST_DAMPING = 1.0  # with more, the added diagonal dominates H


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs from a Hessian: the order of the columns, U (K, K) in that order, the dead columns, and the damping that was used."""

    order: Tensor
    upper_KK: Tensor
    dead: Tensor
    damping: float


def factorise(hessian_KK: Tensor, *, damping: float, dampings: int, sort_columns: bool) -> Factor:
    """Damp, order and factorise H. If that fails, it is tried again with ten times the damping; the result's `damping` is the one used.

    ValueError if H is all zero, not finite, or not positive definite with any damping up to 1. H is not modified.
    """
    hessian = hessian_KK.double().clone()
    diagonal = hessian.diagonal()  # a view
    if not torch.isfinite(hessian).all():
        raise ValueError("its Hessian is not finite; lower train's rates, or calibrate on fewer sequences")
    if not diagonal.any():
        raise ValueError(
            "its Hessian is all zero: no calibration token reached it; raise calibrate.sequences, or set its group's method to nearest"
        )
    for _ in range(dampings - 1):
        diagonal += damping * diagonal.mean()
    dead = diagonal == 0
    diagonal[dead] = 1.0
    mean = diagonal.mean()
    order = torch.argsort(diagonal, descending=True, stable=True) if sort_columns else torch.arange(len(diagonal), device=diagonal.device)
    hessian = hessian[order][:, order]
    identity = torch.eye(len(hessian), dtype=torch.float64, device=hessian.device)
    used = damping
    while True:
        lower, failed = torch.linalg.cholesky_ex((hessian + used * mean * identity).flip(0, 1))
        if not failed:
            break
        used *= 10
        if not 0 < used <= LARGEST_DAMPING:
            raise ValueError(
                f"its Hessian is not positive definite with quantize.gptq.damping {damping:g}; raise it (0.01 to 0.1), "
                "or calibrate.sequences"
            )
    upper_KK = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return Factor(order, upper_KK.float(), dead, used)


def quantize_one(job: Job) -> Quantized:
    """Quantize the matrix with its group's bits and clips."""
    return quantize(job.weight_MK, factor_of(job), bits=job.group.bits, candidates=job.candidates(), block=job.settings.gptq.block)


def factor_of(job: Job) -> Factor:
    """The factor of its Hessian. Query, key and value share a Hessian, so the last factor is kept for reuse."""
    last, options = job.kept.get("factor"), job.settings.gptq
    if last is None or not torch.equal(last[0], job.hessian_KK):
        found = factorise(job.hessian_KK, damping=options.damping, dampings=options.dampings, sort_columns=options.sort_columns)
        job.kept["factor"] = last = job.hessian_KK, found
    if last[1].damping != options.damping:
        job.kept.setdefault("damping", {})[job.name] = last[1].damping
    return last[1]


def quantize(weight_MK: Tensor, factor: Factor, *, bits: int, candidates: Sequence[Steps], block: int) -> Quantized:
    """Integers for the best of the candidate steps (gptq_lite.py). W is not modified.

    Updates are lazy: one by one within a block of columns, and once per block for the rest. The block size changes only the speed.
    """
    assert block >= 1 and not math.isnan(factor.damping)
    weight_MK = weight_MK.float().masked_fill(factor.dead, 0.0)
    codes_MK, steps = gptq_lite.best(
        weight_MK, candidates, lambda steps_M: sweep(weight_MK, factor, steps_M, bound=limit(bits), block=block)
    )
    return Quantized({"codes": codes_MK.to(torch.int8), **steps.arrays}, {})


def sweep(
    weight_MK: Tensor, factor: Factor, steps_M: Tensor, *, bound: int, block: int, fine: tuple[Container, Tensor, int] = ((), None, 0)
) -> Tensor:
    """One pass over the columns. Returns codes (M, K), still in float32. `fine`: columns with other steps, these steps, and their bound."""
    upper, num_columns, order = factor.upper_KK, weight_MK.size(1), factor.order.tolist()
    work_KM = weight_MK[:, factor.order].T.contiguous()  # transposed, so that a column of W is contiguous
    codes_KM = torch.empty_like(work_KM)
    for start in range(0, num_columns, block):
        stop = min(start + block, num_columns)
        errors = torch.empty(stop - start, weight_MK.size(0), device=work_KM.device)
        pivots = upper.diagonal()[start:stop].tolist()
        for j, pivot in enumerate(pivots, start):
            own_M, own_bound = fine[1:] if order[j] in fine[0] else (steps_M, bound)
            codes_KM[j] = torch.round(work_KM[j] / own_M).clamp_(-own_bound, own_bound)
            errors[j - start] = (work_KM[j] - own_M * codes_KM[j]) / pivot
            work_KM[j + 1 : stop].addr_(upper[j, j + 1 : stop], errors[j - start], alpha=-1)
        work_KM[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    restored_MK = torch.empty_like(weight_MK)
    restored_MK[:, factor.order] = codes_KM.T
    return restored_MK
