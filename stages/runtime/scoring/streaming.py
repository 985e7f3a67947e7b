"""Run an evaluator token by token: it gives the distribution of the next token, and then gets the token.

    stream = Stream(evaluator, num_targets, first_token)
    stream.dist() -> log p (V), float64         may be called again; the evaluator sees 0 for tokens that are not known yet
    stream.push(token)                          the evaluator learns when a window's last target has come, as in the harness

`push` does not need a `dist` before it.
Encoder and decoder both use this form, so their distributions come from the same shapes and are equal bit for bit on one machine. It equals
the batch form with one window per chunk; if the batch form computes several windows at once, the two differ by rounding.
"""

import numpy as np
import torch


class Stream:
    """Only for evaluators that are causal with their options; others would need tokens that are not known yet."""

    def __init__(self, evaluator, num_targets: int, first_token: int):
        self.evaluator, self.next_target, self.asked = evaluator, 1, 0
        self.tokens = torch.zeros(num_targets + 1, dtype=torch.int64)
        self.tokens[0] = first_token
        self.windows = (window for chunk in evaluator.chunks(num_targets) for window in chunk)
        self.window = next(self.windows, None)

    def dist(self) -> np.ndarray:
        """ln p of every token as the next one."""
        window, self.asked = self.window, self.next_target
        logits_V = self.evaluator.predict(self.tokens[: window.last + 1], [window])[self.next_target - window.first]
        logits_V = logits_V.detach().double()
        return (logits_V - torch.logsumexp(logits_V, dim=-1)).cpu().numpy()

    def push(self, token: int) -> None:
        """Give the next token to the evaluator."""
        if self.next_target == self.window.last:
            if self.asked < self.next_target and getattr(self.evaluator, "carries", True):
                self.dist()  # `learn` may need a `predict` for which all but the last target were known
            self.tokens[self.next_target] = token
            self.evaluator.learn(self.tokens[: self.window.last + 1], [self.window])
            self.window = next(self.windows, None)
        self.tokens[self.next_target] = token
        self.next_target += 1
