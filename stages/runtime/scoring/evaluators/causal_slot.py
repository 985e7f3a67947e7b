"""SLOT on context that is already scored: honest, with one delta for each window, or as published, which leaks.

    for each window:  delta (D) = 0, or where the last window ended;  `steps` times AdamW on
        mean CE(head(H + delta), targets) over the window's positions before its first scored one  +  penalty / 2 |delta|²;
    score the rest with head(H + delta).  The first window has no context: delta = 0.

honest: the objective ends at the target before the first one that the window scores, and no delta is shared, so a decoder can repeat
every step. published: #1306, #1217 and #1333 mask the objective in the same way, but share one delta over a batch of windows that overlap,
so the context of one window contains targets that another window scores.
`warm_start` starts from the delta of the window before, whose targets are all scored by then; it needs batch 1.
Source: parameter-golf #1306 (rate 0.005, 8 steps, betas 0.3 and 0.9), #1333 (0.008, 16 steps); one delta per window is ours.
"""

# B windows, T time, D width

import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


def claims(options: dict) -> tuple[str, ...]:
    """The published form shares its delta, so it can claim neither causal nor score_first."""
    return ("single_pass",) if options.get("form") == "published" else CLAIMS


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, `learning_rate` and `steps` of AdamW, `form`, `warm_start`, `penalty`."""

    def __init__(
        self, model, *, learning_rate: float, steps: int, form: str = "honest", warm_start: bool = False, penalty: float = 0.0, **windowing
    ):
        super().__init__(model, **windowing)
        adaptation.require("learning_rate", learning_rate, (int, float), 1e-9, 1e3)
        adaptation.require("steps", steps, int, 0)
        adaptation.require("penalty", penalty, (int, float), 0)
        adaptation.choose("form", form, ("honest", "published"))
        adaptation.choose("warm_start", warm_start, (True, False))
        if warm_start and (self.batch != 1 or form == "published"):
            raise ValueError("warm_start takes the delta of the window before: it needs batch 1 and the honest form")
        self.rates, self.form, self.warm_start, self.penalty = [learning_rate] * steps, form, warm_start, penalty
        self.delta_11D = self.pending_11D = self.fitted = None
        self.carries = warm_start

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        hidden_BTD = self.hidden_of(seen, chunk)
        contexts = [window.first - 1 - window.start for window in chunk]  # positions before the first scored one
        length, count = max(contexts), 1 if self.form == "published" else len(chunk)
        delta_B1D = torch.zeros(count, 1, hidden_BTD.size(-1))
        if self.delta_11D is not None:
            delta_B1D = self.delta_11D.clone()
        window, context = chunk[0], seen[chunk[0].start : chunk[0].first]
        if len(chunk) == 1 and self.fitted and self.fitted[0] == window and torch.equal(self.fitted[1], context):
            delta_B1D = self.fitted[2]  # called again for the same window and context, as in token-by-token scoring: the fit stays the same
        elif length:
            targets_BT = windows.targets(seen, chunk, self.window)[:, :length]
            total = max(sum(contexts), 1)
            weights_BT = torch.stack(
                [(torch.arange(length) < n).float() / (total if self.form == "published" else max(n, 1)) for n in contexts]
            )

            def gradients() -> list[Tensor]:
                found_BD = adaptation.gradient(self.model, hidden_BTD[:, :length] + delta_B1D, targets_BT, weights_BT)[0]
                found_BD = found_BD.sum(0, keepdim=True) if self.form == "published" else found_BD
                return [found_BD[:, None] + self.penalty * delta_B1D]

            adaptation.adamw([delta_B1D], gradients, rates=self.rates, betas=(0.3, 0.9))
            self.fitted = (window, context.clone(), delta_B1D)
        if self.warm_start:
            self.pending_11D = delta_B1D
        return self.model.head(windows.scored_rows(hidden_BTD + delta_B1D, chunk))

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """With warm_start, the next window starts from this delta."""
        self.delta_11D = self.pending_11D
