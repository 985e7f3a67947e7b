"""Entropy-constrained quantization: the least error for a number of coded bits, over all matrices of the method together.

One constant sets the steps of all matrices; it is the finest that the budget of quantize.entropy allows (entropy_model.py), and each matrix
is rounded by a trellis inside GPTQ (entropy_constrained.py).
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
    """The matrices within the budget. ValueError where it cannot be met."""
    matrices = entropy_model.matrices(weights, hessians, rows, settings=settings.entropy, multipliers=multipliers)
    model = entropy_model.Model(matrices, options=entropy_model.options(settings.entropy), device=device)
    return entropy_model.within_budget(model, settings=settings.entropy, others=others, rest_bits=rest_bits)
