"""Round to nearest: q = clamp(round(w / s), -R, R), half to even. It uses no Hessian and treats each weight separately.

It equals GPTQ with H = I. The contest's naive baseline uses it, also for its tables. Source: parameter-golf, naive baseline.
"""

# M rows, K columns

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.lib.quant import gptq_lite
from stages.lib.quant.methods import Job
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.scales import Steps, limit

ROTATES, NEEDS_HESSIAN = True, False


def quantize_one(job: Job) -> Quantized:
    """Quantize the matrix with its group's bits and clips."""
    return quantize(job.weight_MK, bits=job.group.bits, candidates=job.candidates())


def quantize(weight_MK: Tensor, *, bits: int, candidates: Sequence[Steps]) -> Quantized:
    """Integers for the best of the candidate steps (gptq_lite.py). W is not modified."""
    weight_MK, bound = weight_MK.float(), limit(bits)

    def rounded(steps_M: Tensor) -> Tensor:
        return torch.round(weight_MK / steps_M[:, None]).clamp(-bound, bound)

    codes_MK, steps = gptq_lite.best(weight_MK, candidates, rounded)
    return Quantized({"codes": codes_MK.to(torch.int8), **steps.arrays}, {})
