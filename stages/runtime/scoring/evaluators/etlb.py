"""ETLB: a bias on the logits that is fitted on each window's context and carried to the next window.

    bias b (V) = 0;  for each window after the first:  beta = b;  `steps` times  beta <- beta - rate · grad mean CE(z + beta, targets)
    over the window's context;  b = clip(beta, ±bound);  score the rest with z + b

    grad = mean softmax(z + beta) - frequencies of the targets over the context

Batch 1 is #1399: windows come one after the other, so the context is already scored. With larger batches one bias is fitted on the contexts
of all windows of a batch, which contain targets that other windows score: #1415, a leak.
Source: parameter-golf #1399 (rate 0.05, 5 steps, bound 3).
"""

import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


def claims(options: dict) -> tuple[str, ...]:
    """It is causal only with one window at a time."""
    return CLAIMS if options.get("batch") == 1 else ("single_pass",)


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and learning_rate, steps, bound."""

    carries = True

    def __init__(self, model, *, learning_rate: float, steps: int, bound: float, **windowing):
        super().__init__(model, **windowing)
        adaptation.require("learning_rate", learning_rate, (int, float), 0, 1e3)
        adaptation.require("steps", steps, int, 0)
        adaptation.require("bound", bound, (int, float), 0)
        self.learning_rate, self.steps, self.bound = learning_rate, steps, bound
        self.bias_V = self.pending_V = torch.zeros(0 if model is None else model.config.vocabulary_size)

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        logits_BTV = self.model.head(self.hidden_of(seen, chunk))
        contexts = [window.first - 1 - window.start for window in chunk]
        fitted_NV = torch.cat([logits[:n] for logits, n in zip(logits_BTV, contexts, strict=True)])
        targets_N = torch.cat([t[:n] for t, n in zip(windows.targets(seen, chunk, self.window), contexts, strict=True)])
        self.pending_V = self.bias_V
        if len(targets_N):
            frequencies_V = torch.bincount(targets_N, minlength=len(self.bias_V)) / len(targets_N)
            beta_V = self.bias_V
            for _ in range(self.steps):
                beta_V = beta_V - self.learning_rate * ((fitted_NV + beta_V).softmax(-1).mean(0) - frequencies_V)
            self.pending_V = beta_V.clamp(-self.bound, self.bound)
        return windows.scored_rows(logits_BTV, chunk) + self.pending_V

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Carry the bias to the next window."""
        self.bias_V = self.pending_V
