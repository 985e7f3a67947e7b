"""Ternary codes: -1, 0, 1 with one float16 scale for each `group` neighbouring columns of a row.

    s = mean |w| of the group;   q = clamp(round(w / s), -1, 1);   decoded s q / mean |q|

The division corrects a bias: without it, decoded values would be too small by the group's share of zeros. The decoder computes mean |q|
from the codes, so it costs no bytes. Source: parameter-golf #640 (groups of 128), after BitNet b1.58, arXiv:2402.17764.
"""

# M rows, K columns, G groups

import torch
from torch import Tensor

from stages.lib.quant.methods import Job
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.scales import SMALLEST_FLOAT16

ROTATES, NEEDS_HESSIAN = False, False


def quantize_one(job: Job) -> Quantized:
    """Quantize the matrix in quantize.ternary's groups of columns."""
    return quantize(job.weight_MK, group=job.settings.ternary.group)


def quantize(weight_MK: Tensor, *, group: int) -> Quantized:
    """Ternary codes of every group. ValueError if `group` does not divide the number of columns. W is not modified."""
    rows, columns = weight_MK.shape
    if group < 1 or columns % group:
        raise ValueError(f"quantize.ternary.group is {group}; it must divide its {columns} columns")
    weight_MGN = weight_MK.float().reshape(rows, columns // group, group)
    scales_MG = weight_MGN.abs().mean(dim=2).clamp_min(SMALLEST_FLOAT16).half()
    codes_MGN = torch.round(weight_MGN / scales_MG.float()[:, :, None]).clamp(-1, 1)
    return Quantized({"codes": codes_MGN.reshape(rows, columns).to(torch.int8), "scales": scales_MG}, {"unshrink": True})
