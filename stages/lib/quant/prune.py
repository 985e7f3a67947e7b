"""Selective zeroing: set the cheapest codes of ±1 to zero, to save the last kilobytes of an artifact.

    cost of a code = s²,   the square of its step;   the `count` cheapest over all matrices become 0

In order of cost, this empties the rows with the smallest steps one after the other. It saves about 0.3 bytes for each code, because a row
of zeros costs nothing; a zero among other codes saves 0.12 bits. Per saved byte it does more damage than coarser steps. It is for an
artifact that is slightly over the cap after everything else: eight codes for each byte too many (#1334, #1485).

Source: parameter-golf #609, #1334.
"""

# M rows, K columns

import torch
from torch import Tensor

from stages.lib.quant.quantized import Quantized
from stages.runtime.weights import dequantize


def candidates(quantized: Quantized) -> Tensor:
    """Cost of every code, float64 (M, K): s² where it is ±1, else infinite. ValueError for a trellis, whose codes depend on each other."""
    if quantized.scheme.get("trellis"):
        raise ValueError("codes of a trellis cannot be made zero one by one; set quantize.prune.codes to 0, or leave its group out")
    codes_MK = quantized.arrays["codes"].cpu()
    arrays = {suffix: array.cpu().numpy() for suffix, array in quantized.arrays.items()}
    scale_MG = torch.from_numpy(dequantize.row_scales(arrays)).double()
    columns_K = torch.from_numpy(dequantize.column_scales(arrays["codes"], arrays, quantized.scheme)).double()
    step_MK = scale_MG.repeat_interleave(codes_MK.size(1) // scale_MG.size(1), dim=1) * columns_K
    return torch.where(codes_MK.abs() == 1, step_MK**2, torch.inf)


def cheapest(matrices: dict[str, Quantized], count: int) -> dict[str, Quantized]:
    """The matrices with the `count` cheapest codes of ±1 (or all, if there are fewer) set to zero. Equal costs are taken in order."""
    if count <= 0:
        return matrices
    costs = torch.cat([candidates(quantized).flatten() for quantized in matrices.values()])
    chosen = torch.zeros(len(costs), dtype=torch.bool)
    chosen[torch.argsort(costs, stable=True)[:count]] = True
    chosen &= costs.isfinite()
    out, start = {}, 0
    for name, quantized in matrices.items():
        codes = quantized.arrays["codes"]
        here = chosen[start : start + codes.numel()].reshape(codes.shape).to(codes.device)
        out[name] = Quantized(quantized.arrays | {"codes": codes.masked_fill(here, 0)}, quantized.scheme)
        start += codes.numel()
    return out
