"""SLOT as the field ran it: one delta on the final hidden states per batch of windows, fitted on the targets it then scores.

    delta (1, 1, D) = 0;  `steps` times AdamW on  mean CE(head(H + delta), targets)  over all positions but the last of each
    window;  score head(H + delta).

The objective contains the targets that are scored, so this is NOT causal, does not score first, and its number is no code
length. It is here so that published scores can be reproduced and the audit can be seen to refuse them.
Source: arXiv:2505.12392 for the delta; parameter-golf #1150 (lr 0.003, 5 steps; weight decay 1e-8, eps 1e-5).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import windows
from . import sliding

CLAIMS = ("single_pass",)


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and `learning_rate`, `steps` of AdamW."""

    def __init__(self, model, *, learning_rate: float, steps: int, **windowing):
        super().__init__(model, **windowing)
        if not isinstance(steps, int) or steps < 0 or not isinstance(learning_rate, (int, float)) or not 0 < learning_rate < 1e3:
            raise ValueError(f"SLOT takes steps of 0 or more and a positive learning_rate, not {steps!r} and {learning_rate!r}")
        self.learning_rate, self.steps = learning_rate, steps

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        hidden_BTD = self.hidden(seen, chunk)
        fitted_ND = torch.cat([h[: w.length - 1] for h, w in zip(hidden_BTD, chunk, strict=True)])
        targets_N = torch.cat([t[: w.length - 1] for t, w in zip(windows.targets(seen, chunk, self.window), chunk, strict=True)])
        delta_D = torch.zeros(hidden_BTD.size(-1), requires_grad=True)
        if len(targets_N):
            optimizer = torch.optim.AdamW([delta_D], lr=self.learning_rate, weight_decay=1e-8, eps=1e-5)
            for _ in range(self.steps):
                (delta_D.grad,) = torch.autograd.grad(F.cross_entropy(self.model.head(fitted_ND + delta_D), targets_N), [delta_D])
                optimizer.step()
        return self.model.head(windows.scored_rows(hidden_BTD, chunk) + delta_D.detach())
