"""Clip search: quantize a matrix once for each candidate clip, and keep the result with the smallest squared error.

    best over p of Σ_ij (w_ij - s_i(p) q_ij(p))²         p in {0.999, 0.9995, 0.9999, 0.99999, 1}, quantiles of the rows' |w|

The whole matrix has one p, as in the published code; its write-ups say one for each row. With rounding to nearest this is "GPTQ-lite"
(parameter-golf #414, #549), which uses no data. With GPTQ (#1019) the whole pass is repeated for each p; the error is not weighted by H. If
the floor of the scales is above all clips (clip_floor 1), all candidates give the same steps, and the first is kept.
"""

# M rows, K columns

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stages.lib.quant.scales import Steps


def best(weight_MK: Tensor, candidates: Sequence[Steps], codes_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Steps]:
    """(codes (M, K), steps) of the candidate with the smallest squared error, the first of equal ones. `codes_of` gets steps (M)."""
    if not candidates:
        raise ValueError("clip is an empty list; give at least one number")
    if len(candidates) == 1:
        return codes_of(candidates[0].values), candidates[0]
    errors, found = [], []
    for steps in candidates:
        codes_MK = codes_of(steps.values)
        errors.append(torch.sum((weight_MK - codes_MK * steps.values[:, None]) ** 2, dtype=torch.float64).item())
        found.append((codes_MK, steps))
    return found[errors.index(min(errors))]
