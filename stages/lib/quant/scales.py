"""Steps of the rows of a matrix, as they are stored: s_i = max(clip_i, clip_floor) / R, with R = 2^(bits - 1) - 1 the largest code.

    max              clip_i = clip · max_j |w_ij|
    percentile       clip_i = the quantile `clip` of |w_ij| over j, linear between neighbours            naive baseline: 0.9999984
    sigmas           clip_i = clip · std_j w_ij, unbiased                                                SDClip, #1394
    hessian_sigmas   that times 1 + strength (r_i - 1), r_i = mean_j |w_ij| H_jj over its mean of rows     #1412: strength 0.175

They are stored as float16, or as float8 (e4m3) times one float32 step for the matrix. Codes must be rounded with the stored steps, not with
the exact ones, because the decoder uses the stored ones. A row's step is never 0: a row of zeros is still divided and gets codes 0.

Source: parameter-golf #1394, #1412; the floor of 1 (steps of at least 1/127, 1/31) is that of the naive baseline and of #549's family.
"""

# M rows, K columns

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.runtime.weights import dequantize

FORMATS = ("float16", "float8")
SMALLEST_FLOAT16 = 2.0**-24
LARGEST_FLOAT8, SMALLEST_FLOAT8 = 448.0, 2.0**-9


@dataclass(frozen=True)
class Steps:
    """`arrays` are as stored, by suffix: scales (M), and with float8 also step (). `values` (M) are what the decoder reads, in float32."""

    arrays: dict[str, Tensor]
    values: Tensor


def limit(bits: int) -> int:
    """Largest code of a symmetric integer with `bits` bits, such as 31 for 6. ValueError outside of 2 to 8 bits."""
    if not 2 <= bits <= 8:
        raise ValueError(f"a quantized tensor takes 2 to 8 bits, not {bits}")
    return 2 ** (bits - 1) - 1


def takes(rule: str) -> str:
    """The values that a rule accepts as its clip, in words."""
    return "a quantile above 0 and up to 1" if rule == "percentile" else "a positive number"


def clips(weight_MK: Tensor, *, rule: str, clip: float, hessian_KK: Tensor | None = None, strength: float = 0.0) -> Tensor:
    """clip_i, float32 (M): the largest weight that a row can represent. ValueError for a clip that the rule does not accept."""
    absolute_MK = weight_MK.float().abs()
    if not clip > 0 or (rule == "percentile" and clip > 1):
        raise ValueError(f"clip is {clip}; {rule} takes {takes(rule)}")
    if rule == "max":
        return clip * absolute_MK.amax(dim=1)
    if rule == "percentile":
        return _quantile(absolute_MK, clip)
    if weight_MK.size(1) < 2:
        raise ValueError("a row of one weight has no standard deviation; use scales max")
    sigma_M = clip * weight_MK.float().std(dim=1)
    if rule == "hessian_sigmas":
        if hessian_KK is None:
            raise ValueError("scales hessian_sigmas need a Hessian, which this tensor does not have; use sigmas")
        importance_M = absolute_MK @ hessian_KK.diagonal().float()
        sigma_M = sigma_M * (1 + strength * (importance_M / importance_M.mean().clamp_min(1e-30) - 1))
    return sigma_M


def steps(clip_M: Tensor, *, bits: int, clip_floor: float, stored_as: str) -> Steps:
    """The steps, rounded to their stored form. ValueError if float16 cannot represent one."""
    exact_M = clip_M.clamp_min(clip_floor) / limit(bits)
    if stored_as == "float16":
        scales_M = exact_M.clamp_min(SMALLEST_FLOAT16).half()
        if not torch.isfinite(scales_M).all():
            raise ValueError("a row's scale does not fit in float16; lower its clip, or the weights are not finite")
        return Steps({"scales": scales_M}, scales_M.float())
    step = (exact_M.amax() / LARGEST_FLOAT8).clamp_min(SMALLEST_FLOAT16)
    bits_M = (exact_M / step).clamp(SMALLEST_FLOAT8, LARGEST_FLOAT8).to(torch.float8_e4m3fn).view(torch.uint8)
    values_M = torch.from_numpy(dequantize.float8(bits_M.cpu().numpy())).to(step.device) * step
    return Steps({"scales": bits_M, "step": step}, values_M)


def _quantile(absolute_MK: Tensor, share: float) -> Tensor:
    """As torch.quantile, which takes no more than 16 million numbers."""
    sorted_MK, place = absolute_MK.sort(dim=1).values, share * (absolute_MK.size(1) - 1)
    below = int(np.floor(place))
    above = min(below + 1, absolute_MK.size(1) - 1)
    return torch.lerp(sorted_MK[:, below], sorted_MK[:, above], place - below)
