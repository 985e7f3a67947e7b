"""Muon: momentum, then the nearest (semi-)orthogonal matrix as the update.

    M <- mu M + G;   U = G + mu M (Nesterov);   O = orthogonalise(U)
    W <- W (1 - lr wd) - lr sqrt(max(1, rows/cols)) O

Source: Keller Jordan et al., "Muon" (2024); the field's form with classical coefficients.
"""

# N matrices of one shape, M rows, K columns

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic that pushes singular values towards 1: Jordan et al. 2024


def orthogonalise(update_NMK: Tensor, *, iterations: int = 5) -> Tensor:
    """Approximate U V' of each matrix's SVD by Newton-Schulz: X <- aX + (bA + cA²)X with A = XX', X0 = U / ‖U‖_F.

    Singular values end between about 0.7 and 1.2; the result does not depend on the scale of the input. Batched over N.
    """
    a, b, c = COEFFICIENTS
    tall = update_NMK.size(-2) > update_NMK.size(-1)
    x_NMK = update_NMK.mT if tall else update_NMK
    x_NMK = x_NMK / (x_NMK.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x_NMK @ x_NMK.mT
        x_NMK = torch.baddbmm(x_NMK, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x_NMK, beta=a)
    return x_NMK.mT if tall else x_NMK


class Muon(torch.optim.Optimizer):
    """For 2-D weights. `lr` is the size of every singular value of a step; decay is decoupled and uses the scheduled lr."""

    def __init__(self, params, *, lr: float, momentum: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                shapes.setdefault(weight.shape, []).append(weight)
            for shape, weights in shapes.items():  # equal shapes together: one batched product instead of many small ones
                self._step(weights, shape, group)

    def _step(self, weights: list[Tensor], shape: torch.Size, group: dict) -> None:
        updates = []
        for weight in weights:
            buffer = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
            buffer.mul_(group["momentum"]).add_(weight.grad)
            updates.append(weight.grad.add(buffer, alpha=group["momentum"]))
        stacked_NMK = torch.stack(updates)
        if stacked_NMK.is_cuda:
            stacked_NMK = stacked_NMK.bfloat16()  # as the field runs it; on the CPU float32 keeps the bytes repeatable
        factor = max(1.0, shape[0] / shape[1]) ** 0.5
        for weight, update in zip(weights, orthogonalise(stacked_NMK), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.to(weight.dtype), alpha=-group["lr"] * factor)
