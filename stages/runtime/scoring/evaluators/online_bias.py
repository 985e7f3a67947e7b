"""A bias on the logits that learns once from each token after it is scored.

    row t:  z_t + b;  then  b <- b - rate (softmax(z_t + b) - onehot(x_t))         b (V) = 0 at the start

Each row's bias depends only on the targets before it. The idea is that of ETLB, but it does not read the context again for each window.
Source: the online bias of Nacrith, arXiv:2602.19626.
"""

import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and learning_rate."""

    carries = True

    def __init__(self, model, *, learning_rate: float, **windowing):
        super().__init__(model, **windowing)
        adaptation.require("learning_rate", learning_rate, (int, float), 0, 1e3)
        self.learning_rate = learning_rate
        self.bias_V = torch.zeros(0 if model is None else model.config.vocabulary_size)
        self.logits_RV = None

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        self.logits_RV = super().predict(seen, chunk)
        return self._run(seen, chunk)[0]

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        self.bias_V = self._run(seen, chunk)[1]

    def _run(self, seen: Tensor, chunk: list[windows.Window]) -> tuple[Tensor, Tensor]:
        """The chunk's rows, each with the bias before its target, and the bias after the last row."""
        bias_V, rows = self.bias_V.clone(), self.logits_RV.clone()
        for row_V, target in zip(rows, seen[chunk[0].first : chunk[-1].last + 1].tolist(), strict=True):
            row_V += bias_V
            bias_V -= self.learning_rate * row_V.softmax(-1)
            bias_V[target] += self.learning_rate
        return rows, bias_V
