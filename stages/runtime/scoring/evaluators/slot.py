"""SLOT as in the contest: a delta on the final hidden states, fitted on the targets that it then scores. NOT causal.

    delta = 0 (bias = 0);  `steps` times AdamW on  mean CE(head(H + delta), targets);  score head(H + delta)

| option     | values                                                                                             |
|------------|----------------------------------------------------------------------------------------------------|
| shared     | true: one delta for a batch of windows (#1150, #1172) - false: one for each window (#1229)          |
| objective  | all: every position but the last of each window (#1150, #1172) - scored: the scored ones (#1229)    |
| bias       | true: a bias (V) on the logits too, before the cap (#1229)                                          |
| final_rate | share of the learning rate that the last step has, by a half cosine (#1229: 0.1); 1: constant       |

The objective contains the targets that are scored, so no decoder could reach this score; the audit marks it not legal. It is here to
reproduce published scores, and to show that the audit refuses them. Source: arXiv:2505.12392 for the delta, which is fitted there on
the prompt alone; parameter-golf #1150 (rate 0.003, 5 steps), #1172 (0.005, 8), #1229 (0.008, 16 steps).
"""

import math

import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("single_pass",)


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, `learning_rate` and `steps` of AdamW, and those above."""

    def __init__(
        self,
        model,
        *,
        learning_rate: float,
        steps: int,
        shared: bool = True,
        objective: str = "all",
        bias: bool = False,
        final_rate: float = 1.0,
        **windowing,
    ):
        super().__init__(model, **windowing)
        adaptation.require("learning_rate", learning_rate, (int, float), 1e-9, 1e3)
        adaptation.require("steps", steps, int, 0)
        adaptation.require("final_rate", final_rate, (int, float), 0, 1)
        adaptation.choose("shared", shared, (True, False))
        adaptation.choose("bias", bias, (True, False))
        adaptation.choose("objective", objective, ("all", "scored"))
        self.rates = [
            learning_rate * (final_rate + (1 - final_rate) * 0.5 * (1 + math.cos(math.pi * step / max(steps - 1, 1))))
            for step in range(steps)
        ]
        self.shared, self.objective, self.bias = shared, objective, bias

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        hidden_BTD = self.hidden_of(seen, chunk)
        targets_BT = windows.targets(seen, chunk, self.window)
        weights_BT = torch.stack([self._weights(window) for window in chunk])
        total = weights_BT.sum() if self.shared else weights_BT.sum(1, keepdim=True)
        weights_BT = weights_BT / total.clamp_min(1)  # one mean over the whole batch, or one for each window
        count = 1 if self.shared else len(chunk)
        delta_B1D = torch.zeros(count, 1, hidden_BTD.size(-1))
        bias_B1V = torch.zeros(count, 1, self.model.config.vocabulary_size)

        def gradients() -> list[Tensor]:
            found = adaptation.gradient(self.model, hidden_BTD + delta_B1D, targets_BT, weights_BT, bias_B1V if self.bias else None)
            found = [part.sum(0, keepdim=True) if self.shared else part for part in found]
            return [part[:, None] for part in (found if self.bias else found[:1])]

        if weights_BT.any():
            adaptation.adamw([delta_B1D, bias_B1V] if self.bias else [delta_B1D], gradients, rates=self.rates, betas=(0.9, 0.999))
        rows = windows.scored_rows(hidden_BTD + delta_B1D, chunk)
        biases = windows.scored_rows(bias_B1V.expand(len(chunk), self.window, -1), chunk)
        return adaptation.capped(self.model, rows, biases)

    def _weights(self, window: windows.Window) -> Tensor:
        """1.0 where a position is in the objective."""
        place_T = torch.arange(self.window)
        if self.objective == "all":
            return (place_T < window.length - 1).float()
        return ((place_T >= window.first - 1 - window.start) & (place_T < window.length)).float()
