"""SOAP-Muon: the momentum is normalised in the eigenbasis of the gradients' second moments before it is orthogonalised.

    N: Muon's momentum (M, K);  G: the gradient;  no basis at the first step: S = N
    P = L' N R;   V <- .9 V + .1 P²;   S = L (P / sqrt(V)) R',  scaled to ‖N‖          V >= 1e-16
    afterwards    A <- .9 A + .1 G G',  B <- .9 B + .1 G' G;   first L, R: eigenvectors of A, B, largest first
                  every `every` steps: columns of L sorted by diag(L' A L), V's rows alike, L <- qr(A L); the same for R, B and V's columns

`sides: smaller` has a basis on the smaller side alone (one-sided SOAP, arXiv:2409.11321, section 4): for a matrix of 832 x 192 that is a
fortieth of the work of a QR decomposition. There are no corrections for the zeros at the start. Where gradients span only a part of the
larger side, `both` has a basis that rounding chooses, so processes then agree less closely.
Source: modded-nanogpt track 3, #14 (mlp, every 10), #16, #44 (all, every 1). Its radial brake and its scheduled mixture for one kind of
matrix are not here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.lib.node.params import AtLeastOne, Decay
from stages.train import techniques

SMALLEST = 1e-16


@dataclass(frozen=True)
class Options:
    matrices: Literal["all", "mlp"]
    sides: Literal["both", "smaller"]
    every: AtLeastOne
    decay: Decay  # of A, B and V


class Technique(techniques.Technique):
    needs_muon = True

    def plan(self, moment: techniques.Moment) -> None:
        self.step = moment.step

    def kind(self, name: str) -> bool:
        return self.options.matrices == "all" or ".mlp." in name

    def shaped(self, stack, update_SMK: Tensor, gradients_SMK: Tensor) -> Tensor:
        slots, decay = stack.slots, self.options.decay
        if not self.kind(stack.owners[0]):
            return update_SMK
        update_SMK, gradients_SMK = update_SMK.float(), gradients_SMK.float()
        rows, columns = update_SMK.shape[-2:]
        on = {"left": self.options.sides == "both" or rows <= columns, "right": self.options.sides == "both" or columns < rows}
        shaped_SMK = self._normalised(slots, update_SMK, decay) if "soap_second" in slots else update_SMK
        second_SMK = slots.setdefault("soap_second", torch.zeros_like(stack.momentum_SMK))
        for side in (side for side in on if on[side]):
            g = gradients_SMK if side == "left" else gradients_SMK.mT
            moments = slots.get(f"soap_{side}")
            if moments is None:
                slots[f"soap_{side}"] = moments = (g @ g.mT).mul_(1 - decay)
                slots[f"soap_{side}_basis"] = torch.linalg.eigh(moments).eigenvectors.flip(-1).contiguous()
                continue
            moments.mul_(decay).add_(g @ g.mT, alpha=1 - decay)
            if self.step % self.options.every == 0:
                basis, v = slots[f"soap_{side}_basis"], second_SMK if side == "left" else second_SMK.mT
                order = (basis * (moments @ basis)).sum(dim=-2).argsort(dim=-1, descending=True, stable=True)
                v.copy_(v.gather(-2, order.unsqueeze(-1).expand_as(v)))
                basis.copy_(torch.linalg.qr(moments @ basis.gather(-1, order.unsqueeze(-2).expand_as(basis))).Q)
        return shaped_SMK

    @staticmethod
    def _normalised(slots: dict[str, Tensor], update_SMK: Tensor, decay: float) -> Tensor:
        left, right = slots.get("soap_left_basis"), slots.get("soap_right_basis")
        turned = update_SMK if left is None else left.mT @ update_SMK
        turned = turned if right is None else turned @ right
        slots["soap_second"].mul_(decay).addcmul_(turned, turned, value=1 - decay)
        turned = turned / slots["soap_second"].clamp(min=SMALLEST).sqrt()
        turned = turned if left is None else left @ turned
        turned = turned if right is None else turned @ right.mT
        norms = [x.norm(dim=(-2, -1), keepdim=True) for x in (update_SMK, turned)]
        return turned * (norms[0] / norms[1].clamp(min=SMALLEST))
