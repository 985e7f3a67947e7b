"""How finely each matrix should be quantized: from what calibration found, from measurements, or from both, one after the other.

From calibration (`start`): with the mean squared gradients G of a matrix's outputs and the factor U of its Hessian (entropy_constrained.py)

    multiplier = (r / geometric mean of all r)^½,   r = exp(mean ln U_kk - ½ mean ln G_i) / rms of the weights

r alone is reverse water-filling for a loss that is quadratic and in which errors of different tokens are independent. They are not, and
the power ½ lost least (docs/log.md). Source: Radio, arXiv:2505.03031, which sets bits from gradient variance and weight variance.

By measurement (`damages`, `multipliers`): one unit of matrices at a time, while the rest of the network is exact.

    d_u = what the network loses when only unit u is quantized, `coarseness` times as coarse as it would be
    multiplier_u = sqrt(N_u / d_u), divided by its geometric mean over the weights, within [least, most]

Damage grows with the square of the step and adds up over units, and each doubling of the step saves one bit. The best split of the bits
therefore gives every weight the same damage. Squared gradients of single tokens (the Fisher information) cannot replace the measurement:
the error of a matrix is the same for all tokens, so its effects add up in a way that these gradients do not show. Steps are relative; the
constant of the model compensates for their mean.
"""

import math
from collections import defaultdict
from collections.abc import Callable

from torch import Tensor
from tqdm import tqdm

from stages.lib.quant.entropy_constrained import FLOOR
from stages.lib.quant.entropy_model import Model

TABLES = ("embedding", "unembedding")
POWER = 0.5  # of r
NEGLIGIBLE = 1e-3  # share of the mean damage per weight, below which a damage is noise


def units(names: list[str], *, by: str, depth_groups: int) -> dict[str, list[str]]:
    """Names of matrices by unit: each `matrix` alone, or grouped by `kind` (the name without the layer) and part of the depth."""
    if by == "matrix":
        return {name: [name] for name in names}
    depth = 1 + max((layer for name in names if (layer := _layer(name)) is not None), default=0)
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        kind = ".".join(part for part in name.split(".") if not part.isdigit())
        layer = _layer(name)
        found[kind if layer is None else f"{kind}.{layer * depth_groups // depth}"].append(name)
    return dict(found)


def _layer(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def start(model: Model, gradients: dict[str, Tensor], *, least: float, most: float) -> dict[str, float]:
    """Multipliers from calibration, by matrix. `gradients`: G by module. Embedding and tables have none: their rows are also looked up, and
    what that costs is not in G."""
    logs = {}
    for name, scale in model.scales.items():
        module = name.removesuffix(".weight")
        if module in gradients and module not in TABLES and gradients[module].max() > 0:
            squares = gradients[module].double()
            columns = model.factors[name].upper_KK.diagonal().double().log().mean()
            logs[name] = float(columns - 0.5 * (squares + FLOOR * squares.mean()).log().mean()) - math.log(scale)
    mean = sum(logs.values()) / max(1, len(logs))
    return {name: min(max(math.exp(POWER * (value - mean)), least), most) for name, value in logs.items()}


def damages(
    model: Model, parts: dict[str, list[str]], *, constant: float, coarseness: float, loss_of: Callable[[dict[str, Tensor]], float]
) -> dict[str, float]:
    """Damage by unit: `loss_of` the weights that differ from the network's. It is 0 if none differ."""
    found = {}
    for unit, names in tqdm(parts.items(), desc="sensitivity", unit=" units", mininterval=1.0):
        quantized = model.quantize(constant * coarseness, only=set(names))
        found[unit] = loss_of({name: matrix.weights() for name, matrix in quantized.items()})
    return found


def multipliers(damage: dict[str, float], sizes: dict[str, int], *, least: float, most: float) -> dict[str, float]:
    """sqrt(N / d) by unit, relative to the weights' geometric mean. A damage near or below 0 counts as a very small one."""
    if not all(map(math.isfinite, damage.values())):
        raise ValueError(
            "the loss of the quantized network is not finite; lower sensitivity.coarseness or quantize.entropy.bits_per_weight"
        )
    total = sum(sizes.values())
    mean = sum(max(value, 0.0) for value in damage.values()) / total
    if not mean > 0:
        return dict.fromkeys(damage, 1.0)
    octaves = {unit: -0.5 * math.log2(max(value / sizes[unit], NEGLIGIBLE * mean)) for unit, value in damage.items()}
    centre = sum(octaves[unit] * sizes[unit] for unit in damage) / total
    return {unit: min(max(2.0 ** (octaves[unit] - centre), least), most) for unit in damage}


def predicted_gain(damage: dict[str, float], sizes: dict[str, int]) -> float:
    """Bits per weight that the multipliers save at equal loss: half the log2 of (arithmetic / geometric) mean of d / N."""
    total = sum(sizes.values())
    mean = sum(max(value, 0.0) for value in damage.values()) / total
    if not mean > 0:
        return 0.0
    logs = sum(sizes[unit] * math.log2(max(value / sizes[unit], NEGLIGIBLE * mean)) for unit, value in damage.items()) / total
    return 0.5 * (math.log2(mean) - logs)
