"""Any average of the weights, computed after the run from snapshots of power averages (Karras et al., arXiv:2312.02696).

Every average is a sum Σ_t p_t w_t over the weights after step t = 0..T, so it is given by its profile p (T + 1,). Snapshots have known
profiles. The wanted profile is approximated by the combination Σ_i x_i p_i that is nearest in least squares. The same combination of the
snapshots' weights approximates the wanted average. The profiles here are those of the discrete updates of averages.py, not of their
continuous limit. The initial weights are a snapshot too, because exponential averages contain some of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def power_profile(gamma: float, step: int, *, total: int) -> np.ndarray:
    """Weight of w_0..w_total in the power average after `step` steps, float64 (total + 1,); it sums to 1."""
    profile = np.zeros(total + 1)
    if step == 0:  # the initial weights
        profile[0] = 1.0
        return profile
    times = np.arange(1, step + 1, dtype=np.float64)
    keep = (1 - 1 / times) ** (gamma + 1)
    profile[1 : step + 1] = (1 - keep) * np.append(np.cumprod(keep[:0:-1])[::-1], 1.0)
    return profile


def ema_profile(decay: float, *, total: int) -> np.ndarray:
    """Weight of w_0..w_total in an exponential average with this decay; it sums to 1."""
    profile = (1 - decay) * decay ** np.arange(total, -1, -1, dtype=np.float64)
    profile[0] = decay**total
    return profile


@dataclass(frozen=True)
class Synthesis:
    """Coefficients of the snapshots (S,), and how far their profile is from the wanted one: ‖Σ x_i p_i - p‖ / ‖p‖."""

    coefficients: np.ndarray
    profile_error: float


def synthesise(wanted: np.ndarray, profiles: list[np.ndarray]) -> Synthesis:
    """The combination of `profiles` that is nearest to `wanted`. ValueError without snapshots."""
    if not profiles:
        raise ValueError(
            "there are no snapshots to put an average together from; set train.averages.power, e.g. [6.94, 16.97], and "
            "train.averages.power_snapshots, and train again"
        )
    basis = np.stack(profiles, axis=1)
    coefficients = np.linalg.lstsq(basis, wanted, rcond=1e-10)[0]
    return Synthesis(coefficients, float(np.linalg.norm(basis @ coefficients - wanted) / np.linalg.norm(wanted)))


def combine(synthesis: Synthesis, snapshots: list[dict[str, Tensor]], *, half: frozenset[str]) -> dict[str, Tensor]:
    """Σ_i x_i snapshot_i, summed in float64, returned as float32. The tensors named in `half` are rounded to values of bfloat16, as all
    weights that leave a training with bfloat16 parameters are."""
    sums = {
        key: sum(x * weights[key].double() for x, weights in zip(synthesis.coefficients.tolist(), snapshots, strict=True))
        for key in snapshots[0]
    }
    return {key: value.float().to(torch.bfloat16).float() if key in half else value.float() for key, value in sums.items()}


def relative_width(gamma: float) -> float:
    """Standard deviation of the profile t^gamma in units of the run: sqrt((g + 1) / ((g + 2)² (g + 3)))."""
    return float(torch.tensor((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)), dtype=torch.float64).sqrt())
