"""SLOT in its honest form: one delta per window, fitted only on context that is scored already.

    for each window on its own:  delta (D) = 0;  `steps` times AdamW on  mean CE(head(H + delta), targets)  over the window's
    positions before its first scored one;  score the rest with head(H + delta).  The first window has no context: delta = 0.

The objective of a window ends at the target just before the first that it scores, and no delta is shared, so a decoder can
repeat every step. (#1306 claimed the same but shared one delta over 32 overlapping windows, which leaks.)
Source: parameter-golf #1306 for the optimizer (lr 0.005, 8 steps, betas 0.3 and 0.9); one delta per window is ours.
"""

# B windows, T time, D width

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import windows
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and `learning_rate`, `steps` of AdamW."""

    def __init__(self, model, *, learning_rate: float, steps: int, **windowing):
        super().__init__(model, **windowing)
        if not isinstance(steps, int) or steps < 0 or not isinstance(learning_rate, (int, float)) or not 0 < learning_rate < 1e3:
            raise ValueError(f"SLOT takes steps of 0 or more and a positive learning_rate, not {steps!r} and {learning_rate!r}")
        self.learning_rate, self.steps = learning_rate, steps

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        hidden_BTD = self.hidden(seen, chunk)
        # Position i predicts target start+1+i; context positions are those before the first scored one.
        contexts = [window.first - 1 - window.start for window in chunk]
        length = max(contexts)
        delta_B1D = torch.zeros(len(chunk), 1, hidden_BTD.size(-1), requires_grad=True)
        if length:
            targets_BT = windows.targets(seen, chunk, self.window)[:, :length]
            weights_BT = torch.stack([(torch.arange(length) < n).float() / max(n, 1) for n in contexts])
            optimizer = torch.optim.AdamW([delta_B1D], lr=self.learning_rate, betas=(0.3, 0.9), weight_decay=1e-8, eps=1e-5)
            for _ in range(self.steps):
                logits_BTV = self.model.head(hidden_BTD[:, :length] + delta_B1D)
                loss_BT = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none").view_as(weights_BT)
                (delta_B1D.grad,) = torch.autograd.grad((loss_BT * weights_BT).sum(), [delta_B1D])
                optimizer.step()
        return self.model.head(windows.scored_rows(hidden_BTD + delta_B1D.detach(), chunk))
