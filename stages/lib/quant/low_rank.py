"""LQER: correct the error of a quantized matrix by the product of two thin factors with few bits per element.

    E = W - Ŵ ≈ U_r S_r V_r' (truncated SVD);   left = U_r S_r (M, r),   right = V_r' (r, K);   W ≈ Ŵ + left · right

| form       | left                                                   | right                                                             |
|------------|--------------------------------------------------------|-------------------------------------------------------------------|
| asymmetric | int2: one scale max|left| / 1.5, codes -2..1           | int4: a scale max / 7.5 for each `group` flattened values, -8..7  |
| symmetric  | int4: a scale max / 7 for each row of M, codes -7..7   | int4: a scale max / 7 for each of r rows, codes -7..7             |

If the right factor does not divide into groups, both are stored symmetric, as in the published code. The matrices with the largest
Frobenius norm of the error get a correction. The norm is not divided by the number of weights, so large matrices are preferred.

Source: parameter-golf #1797, #1851, #1855 (three matrices, rank 4, asymmetric, groups of 64); the method: arXiv:2402.02446.
"""

# M rows, K columns, R rank

import torch
from torch import Tensor

from stages.lib.quant.quantized import Quantized
from stages.lib.quant.scales import SMALLEST_FLOAT16

FORMS = ("asymmetric", "symmetric")


def largest(errors: dict[str, float], count: int) -> list[str]:
    """The `count` names with the largest errors, largest first. Equal errors keep their order."""
    return sorted(errors, key=errors.get, reverse=True)[:count]


def residual(weight_MK: Tensor, quantized: Quantized) -> Tensor:
    """E = W - Ŵ, float32 on the CPU."""
    return weight_MK.detach().float().cpu() - quantized.weights()


def correct(quantized: Quantized, weight_MK: Tensor, *, rank: int, form: str, group: int) -> Quantized:
    """The same matrix with a low-rank correction. ValueError if the rank is larger than the matrix allows."""
    if not 1 <= rank <= min(weight_MK.shape):
        raise ValueError(
            f"quantize.low_rank.rank is {rank}; a matrix of {weight_MK.size(0)} x {weight_MK.size(1)} takes 1 to {min(weight_MK.shape)}"
        )
    u_MR, s_R, v_RK = torch.linalg.svd(residual(weight_MK, quantized), full_matrices=False)
    left_MR, right_RK = u_MR[:, :rank] * s_R[:rank], v_RK[:rank].contiguous()
    if form == "asymmetric" and right_RK.numel() % group == 0:
        left = _codes(left_MR, 1, divisor=1.5, low=-2, high=1)
        right = _codes(right_RK, right_RK.numel() // group, divisor=7.5, low=-8, high=7)
    else:
        left = _codes(left_MR, len(left_MR), divisor=7, low=-7, high=7)
        right = _codes(right_RK, rank, divisor=7, low=-7, high=7)
    arrays = {"left": left[0], "left_scales": left[1], "right": right[0], "right_scales": right[1]}
    return Quantized(quantized.arrays | arrays, quantized.scheme)


def _codes(factor: Tensor, groups: int, *, divisor: float, low: int, high: int) -> tuple[Tensor, Tensor]:
    """int8 codes in the factor's shape and float16 scales, one for each of so many equal stretches of the flattened factor."""
    stretches = factor.reshape(groups, -1)
    scales = (stretches.abs().amax(dim=1) / divisor).clamp_min(SMALLEST_FLOAT16).half()
    codes = torch.round(stretches / scales.float()[:, None]).clamp(low, high)
    return codes.reshape(factor.shape).to(torch.int8), scales
