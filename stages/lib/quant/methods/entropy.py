"""Entropy-constrained quantization: the least error for a number of coded bits, over all matrices of the method together.

One constant sets the steps of all matrices. It is the finest that the budget in quantize.entropy allows (entropy_model.py). Each matrix is
rounded by a trellis inside GPTQ (entropy_constrained.py).
"""

import torch
from torch import Tensor

from stages.lib.quant import entropy_model
from stages.lib.quant.quantized import Quantized
from stages.lib.quant.settings import QuantizeSettings


def quantize_together(
    weights: dict[str, Tensor],
    *,
    hessians: dict[str, Tensor],
    rows: dict[str, Tensor],
    multipliers: dict[str, float],
    settings: QuantizeSettings,
    others: dict[str, Quantized],
    rest_bits: float,
    device: torch.device,
) -> entropy_model.Budget:
    """Quantize the matrices within the budget; the result says if the budget could not be met."""
    matrices = entropy_model.matrices(weights, hessians, rows, settings=settings.entropy, multipliers=multipliers)
    model = entropy_model.Model(matrices, options=entropy_model.options(settings.entropy), device=device)
    reserved = settings.tuning.reserved_bits(sum(len(weight) for weight in weights.values()))
    return entropy_model.within_budget(model, settings=settings.entropy, others=others, rest_bits=rest_bits, reserved=reserved)
