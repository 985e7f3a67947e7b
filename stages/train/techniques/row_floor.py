"""Row floor, radius pin and cautious decay: no row's step is too small, and only the radial part of a step moves the matrix's norm.

    u_i <- u_i max(1, floor ‖w_i‖ / ‖u_i‖)                                    for each row i
    ρ = ‖W‖ - rate <U, W> / ‖W‖;   W' = W - rate U;   W <- ρ W' / ‖W'‖        the radius that the step has to first order
    W <- W (1 - rate decay [U ⊙ W > 0])                                       W in the mask: before the step

A matrix of zeros has no radius, so its first step is plain. The published decay is .025 in place of matrix_weight_decay.
Source: modded-nanogpt track 3, #46 (floor .3825).
"""

from dataclasses import dataclass

from torch import Tensor

from stages.lib.node.params import NonNegative
from stages.train import techniques

SMALLEST = 1e-12


@dataclass(frozen=True)
class Options:
    floor: NonNegative
    decay: NonNegative


class Technique(techniques.Technique):
    needs_muon = True

    def write(self, weights: list[Tensor], updates: list[Tensor], rate: float, decay: float) -> None:
        for weight, update in zip(weights, updates, strict=True):
            lengths = [x.norm(dim=-1, keepdim=True) for x in (weight, update)]
            update = update * (self.options.floor * lengths[0] / lengths[1].clamp(min=SMALLEST)).clamp(min=1.0)
            norm, product = weight.norm(), update * weight
            stepped = weight - rate * update
            radius = norm - rate * product.sum() / norm.clamp(min=SMALLEST)
            pinned = stepped * (radius / stepped.norm().clamp(min=SMALLEST))
            weight.copy_(pinned.where(norm > 0, stepped) * (1 - rate * self.options.decay * (product > 0)))
