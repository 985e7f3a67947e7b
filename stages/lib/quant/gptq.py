"""GPTQ: round column by column and push each rounding error onto the columns that are still to come.

    H <- H + damping · mean(diag H) · I;   U = upper Cholesky factor of H⁻¹ (H⁻¹ = U'U)
    for column j:  q_j = clamp(round(w_j / s), -R, R);   e = (w_j - s q_j) / U_jj;   w_m <- w_m - e U_jm  for m > j

Source: Frantar et al., arXiv:2210.17323; row scales by standard deviation: SDClip, parameter-golf #1394.
"""

# M rows, K columns

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_SCALE = 2.0**-24  # the smallest positive float16: a dead row still divides


@dataclass(frozen=True)
class Quantized:
    """W ≈ scales[:, None] * codes: int8 codes (M, K) in -limit..limit, float16 scales (M)."""

    codes: Tensor
    scales: Tensor

    def weights(self) -> Tensor:
        return self.codes.float() * self.scales.float()[:, None]


def limit(bits: int) -> int:
    """Largest code of a symmetric integer with `bits` bits: 31 for 6."""
    if not 2 <= bits <= 8:
        raise ValueError(f"a quantized tensor takes 2 to 8 bits, not {bits}")
    return 2 ** (bits - 1) - 1


def row_scales(weight_MK: Tensor, *, bits: int, sigmas: float) -> Tensor:
    """s_i = float16(max(sigmas · std(w_i) / R, tiny)): `sigmas` standard deviations of a row reach the largest code R."""
    if not sigmas > 0:
        raise ValueError(f"clip_sigmas is {sigmas}; it must be positive")
    scales = (sigmas * weight_MK.float().std(dim=1) / limit(bits)).clamp_min(MIN_SCALE).half()
    if not torch.isfinite(scales).all():
        raise ValueError(f"a row scale does not fit in float16 with clip_sigmas {sigmas}; lower it, or the weights are not finite")
    return scales


def nearest(weight_MK: Tensor, scales_M: Tensor, *, bits: int) -> Quantized:
    """Round to nearest, without a Hessian."""
    codes = torch.round(weight_MK.float() / scales_M.float()[:, None]).clamp(-limit(bits), limit(bits))
    return Quantized(codes.to(torch.int8), scales_M)


def gptq(weight_MK: Tensor, hessian_KK: Tensor, scales_M: Tensor, *, bits: int, damping: float, block: int,
         sort_columns: bool) -> Quantized:
    """GPTQ with lazy block updates. The block size changes speed, not the result (up to rounding).

    `sort_columns` visits the columns by decreasing diag(H), the order that lets well-determined columns absorb errors.
    ValueError if H, damped, is not positive definite. W and H are not modified.
    """
    weight, hessian = weight_MK.float().clone(), hessian_KK.float().clone()
    bound, scale = limit(bits), scales_M.float()
    dead = hessian.diagonal() == 0  # inputs that never fired: no evidence, and a zero pivot
    hessian.diagonal()[dead] = 1.0
    weight[:, dead] = 0.0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if sort_columns else torch.arange(weight.size(1))
    weight, hessian = weight[:, order], hessian[order][:, order]
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        raise ValueError(f"a Hessian is not positive definite with quantize.damping {damping}; raise it (0.01 to 0.1), "
                         "or calibrate.sequences")
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    codes = torch.empty_like(weight)
    for start in range(0, weight.size(1), block):
        stop = min(start + block, weight.size(1))
        errors = torch.empty(weight.size(0), stop - start)
        for j in range(start, stop):
            codes[:, j] = torch.round(weight[:, j] / scale).clamp(-bound, bound)
            errors[:, j - start] = (weight[:, j] - scale * codes[:, j]) / upper[j, j]
            weight[:, j + 1: stop] -= torch.outer(errors[:, j - start], upper[j, j + 1: stop])
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    restored = torch.empty_like(codes)
    restored[:, order] = codes
    return Quantized(restored.to(torch.int8), scales_M)


def layer_error(weight_MK: Tensor, quantized: Quantized, hessian_KK: Tensor) -> float:
    """tr((W - Ŵ) H (W - Ŵ)') / tr(W H W'): the relative error of the layer's output on the calibration tokens."""
    difference = weight_MK.float() - quantized.weights()
    return (torch.sum((difference @ hessian_KK) * difference) / torch.sum((weight_MK @ hessian_KK) * weight_MK).clamp_min(1e-30)).item()
