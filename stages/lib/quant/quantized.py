"""The result of every quantizer: the stored arrays of one matrix, and the scheme by which they become weights again."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.runtime.weights import dequantize

CODE_TYPES = (torch.int8, torch.int16, torch.int32)


@dataclass(frozen=True)
class Quantized:
    """Arrays by suffix and scheme, as runtime/weights/dequantize.py has them. ArtifactError if they do not fit together."""

    arrays: dict[str, Tensor]
    scheme: dict

    def __post_init__(self):
        dequantize.check(self._numpy(), self.scheme)

    def weights(self) -> Tensor:
        """float32 (M, K) on the CPU, by the decoder's own formula."""
        return torch.from_numpy(dequantize.matrix(self._numpy(), self.scheme))

    def stored(self, name: str) -> dict[str, Tensor]:
        """The arrays under their names in the file."""
        return {f"{name}.{suffix}": array for suffix, array in self.arrays.items()}

    def _numpy(self) -> dict[str, np.ndarray]:
        return {suffix: array.detach().cpu().numpy() for suffix, array in self.arrays.items()}


def smallest_integers(codes: Tensor) -> Tensor:
    """The same integers in the smallest of int8, int16, int32 that holds them all."""
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    for dtype in CODE_TYPES:
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return codes.to(dtype)
    raise ValueError(f"codes reach from {low} to {high}, more than 32 bits hold; the step is far too fine, or the weights are not finite")


def layer_error(weight_MK: Tensor, quantized: Quantized, hessian_KK: Tensor) -> float:
    """tr((W - Ŵ) H (W - Ŵ)') / tr(W H W'): the relative error of the layer's output on the calibration tokens."""
    difference = weight_MK.float() - quantized.weights().to(weight_MK.device)
    return (torch.sum((difference @ hessian_KK) * difference) / torch.sum((weight_MK @ hessian_KK) * weight_MK).clamp_min(1e-30)).item()
