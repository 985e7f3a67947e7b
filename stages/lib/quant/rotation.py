"""Rotate the inputs of a layer before rounding, so that no column is an outlier: W x = (W R)(R' x). Decoding rotates back.

    R = diag(signs) · blocks of the Hadamard matrix / sqrt(block);   W <- W R,   H <- R' H R     (R' is the input's Gram after rotation)

R is orthogonal and needs no bytes except its seed. H must be rotated with W; published attempts without this lost more than a bit per byte.
If steps are proportional to the rows' standard deviations and rows are near-Gaussian, there is little to gain, and a coder can no longer
use the columns' differences in scale (posts of #1400, #1695, #1898). It is off in all recipes.

Source: Hadamard rotations for quantization, arXiv:2404.00456; parameter-golf #586, #1695.
"""

# M rows, K columns

import torch
from torch import Tensor

from stages.lib.quant.quantized import Quantized
from stages.runtime.weights import dequantize


def check(columns: int, block: int) -> None:
    """ValueError if the columns cannot be rotated in blocks of this size."""
    if block < 2 or block & (block - 1) or columns % block:
        raise ValueError(
            f"quantize.rotation.block is {block}; its {columns} columns need a power of two that divides them, such as {columns & -columns}"
        )


def weight(weight_MK: Tensor, *, block: int, seed: int) -> Tensor:
    """W R, on the same device."""
    rotated = dequantize.rotate(weight_MK.detach().float().cpu().numpy(), block=block, seed=seed)
    return torch.from_numpy(rotated).to(weight_MK.device)


def hessian(hessian_KK: Tensor, *, block: int, seed: int) -> Tensor:
    """R' H R, symmetric."""
    half = weight(hessian_KK, block=block, seed=seed)
    rotated = weight(half.T, block=block, seed=seed)
    return (rotated + rotated.T) / 2


def marked(quantized: Quantized, *, block: int, seed: int) -> Quantized:
    """The quantized W R, marked as rotated, so that decoding rotates it back."""
    return Quantized(quantized.arrays, quantized.scheme | {"rotation": {"block": block, "seed": seed}})
