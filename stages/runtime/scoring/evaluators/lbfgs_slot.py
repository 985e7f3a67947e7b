"""SLOT on the logits: a bias on all V capped logits, fitted by L-BFGS.

    bias (V) = 0, or the one before;  minimise  mean CE(z + bias, targets over the objective) + penalty / 2 |bias|²  by L-BFGS
    (rate 1, `iterations`, `history`, strong Wolfe line search, tolerances 1e-7 and 1e-9);  clamp to ±`bound`;  score z + bias

| form       | objective                                                 | bias                     | source                     |
|------------|-----------------------------------------------------------|--------------------------|----------------------------|
| scored     | the last `focal` positions but one, scored ones included  | one for a batch, carried | #1318: not causal          |
| shared     | those of the last `focal` that are context                | one for a batch, carried | #1350: leaks over windows  |
| honest     | the context, or the last `focal` positions of it          | one for each window      | ours                       |

Without a penalty, V numbers are fitted to few tokens, which is far worse than no adaptation, so `honest` needs one (0.003 to 0.01).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


def claims(options: dict) -> tuple[str, ...]:
    """Only the honest form can claim to be causal."""
    return CLAIMS if options.get("form") == "honest" else ("single_pass",)


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and form, focal (honest: 0 is all context), iterations, history, penalty, bound."""

    def __init__(self, model, *, form: str, focal: int, iterations: int, history: int, penalty: float, bound: float, **windowing):
        super().__init__(model, **windowing)
        adaptation.choose("form", form, ("honest", "shared", "scored"))
        for name, value in (("focal", focal), ("iterations", iterations), ("history", history)):
            adaptation.require(name, value, int, 0 if name == "focal" else 1)
        adaptation.require("penalty", penalty, (int, float), 0)
        adaptation.require("bound", bound, (int, float), 0)
        self.form, self.focal, self.iterations, self.history = form, focal, iterations, history
        self.penalty, self.bound, self.carries = penalty, bound, form != "honest"
        self.carried_V = self.pending_V = torch.zeros(0 if model is None else model.config.vocabulary_size)

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        with torch.no_grad():
            logits_BTV = self.model.head(self.hidden_of(seen, chunk))
        targets_BT = windows.targets(seen, chunk, self.window)
        fitted = [
            (logits[slice(*self._objective(w))], targets[slice(*self._objective(w))])
            for logits, targets, w in zip(logits_BTV, targets_BT, chunk, strict=True)
        ]
        if self.form == "honest":
            biases = [self._solve(logits, targets, torch.zeros_like(self.carried_V)) for logits, targets in fitted]
        else:
            self.pending_V = self._solve(torch.cat([x for x, _ in fitted]), torch.cat([x for _, x in fitted]), self.carried_V)
            biases = [self.pending_V] * len(chunk)
        return torch.cat(
            [windows.scored_rows(logits[None], [w]) + bias_V for logits, w, bias_V in zip(logits_BTV, chunk, biases, strict=True)]
        )

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """The published forms carry their bias to the next batch."""
        self.carried_V = self.pending_V

    def _objective(self, window: windows.Window) -> tuple[int, int]:
        """The first position of the objective, and the position after its last."""
        scored = window.first - 1 - window.start
        if self.form == "scored":
            return max(window.length - self.focal, 0), max(window.length - 1, 0)
        if self.form == "shared":
            return min(max(window.length - self.focal, 0), scored), scored
        return max(scored - self.focal, 0) if self.focal else 0, scored

    def _solve(self, logits_NV: Tensor, targets_N: Tensor, start_V: Tensor) -> Tensor:
        bias_V = start_V.clone().requires_grad_(True)
        if not len(targets_N):
            return bias_V.detach()
        optimizer = torch.optim.LBFGS(
            [bias_V],
            lr=1,
            max_iter=self.iterations,
            history_size=self.history,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-7,
            tolerance_change=1e-9,
        )

        def closure() -> Tensor:
            with torch.enable_grad():
                loss = F.cross_entropy(logits_NV + bias_V, targets_N) + self.penalty / 2 * (bias_V**2).sum()
                (bias_V.grad,) = torch.autograd.grad(loss, [bias_V])
            return loss

        optimizer.step(closure)
        return bias_V.detach().clamp(-self.bound, self.bound)
