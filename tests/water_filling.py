"""The least error that any quantizer can reach at a number of bits per weight, and the other way round: reverse water-filling.

Rows of W as Gaussians of variance s_i², inputs with covariance H of eigenvalues lam_j; every component has the variance s_i² lam_j:

    D(theta) = mean_ij min(theta, s_i² lam_j)            of tr((W - Ŵ) H (W - Ŵ)') / (M K)
    R(theta) = mean_ij max(0, log2(s_i² lam_j / theta) / 2)

Source: Shannon 1959, Kolmogorov 1956. The limit is that of rows that are coded one by one; a coder that predicts columns from each
other may go below it.
"""

# M rows, K columns

from dataclasses import dataclass

import torch
from torch import Tensor

BISECTIONS = 100


@dataclass(frozen=True)
class Limit:
    """Sorted variances of the components, float64 (M K), and the sums of their beginnings, so that a level is looked up."""

    variances: Tensor
    sums: Tensor
    log_sums: Tensor

    @classmethod
    def of(cls, weight_MK: Tensor, hessian_KK: Tensor) -> "Limit":
        """From weights and the mean of x x'. Row variances are mean squares."""
        eigenvalues = torch.linalg.eigvalsh(hessian_KK.double()).clamp_min(0)
        variances = torch.outer(weight_MK.double().square().mean(dim=1), eigenvalues).flatten().sort().values
        positive = variances.clamp_min(1e-300)
        zero = torch.zeros(1, dtype=torch.float64)
        return cls(variances, torch.cat((zero, variances.cumsum(0))), torch.cat((zero, torch.log2(positive).cumsum(0))))

    def at(self, theta: float) -> tuple[float, float]:
        """(distortion, bits per weight) at the water level theta > 0."""
        count = len(self.variances)
        below = int(torch.searchsorted(self.variances, torch.tensor(theta, dtype=torch.float64)))
        above = count - below
        distortion = (self.sums[below].item() + theta * above) / count
        level = torch.log2(torch.tensor(theta, dtype=torch.float64)).item()
        return distortion, 0.5 * ((self.log_sums[-1] - self.log_sums[below]).item() - level * above) / count

    def bits(self, distortion: float) -> float:
        """R(D): bits per weight below which no quantizer has so small an error."""
        return self.at(self._level(lambda theta: self.at(theta)[0] < distortion))[1]

    def distortion(self, bits: float) -> float:
        """D(R): the least error of so many bits per weight."""
        return self.at(self._level(lambda theta: self.at(theta)[1] > bits))[0]

    def _level(self, is_below) -> float:
        """The water level, by bisection of its logarithm."""
        high = float(self.variances[-1].clamp_min(1e-300))
        low = high * 2.0**-120
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if is_below(middle) else (low, middle)
        return high
