"""An evaluator token by token: the distribution of the next token before it is known, then the token.

    stream = Stream(evaluator, num_targets, first_token)
    stream.dist() -> log p (V), float64         may be asked again; what is not known yet is 0 in what the evaluator sees
    stream.push(token)                          the evaluator learns when a window's last target has come, as in the harness

A token may be pushed without its distribution having been asked for.
Encoder and decoder both run this form, so their distributions come from the same shapes: equal bit for bit on one machine. It is the
batch form window by window; where that computes several windows at once, the two differ by rounding.
"""

import numpy as np
import torch


class Stream:
    """Only for evaluators that are causal with their options: others would need what is not known yet."""

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
        """The next token is known."""
        if self.next_target == self.window.last:
            if self.asked < self.next_target and getattr(self.evaluator, "carries", True):
                self.dist()  # what is learned may rest on what was predicted with all but the last target known
            self.tokens[self.next_target] = token
            self.evaluator.learn(self.tokens[: self.window.last + 1], [self.window])
            self.window = next(self.windows, None)
        self.tokens[self.next_target] = token
        self.next_target += 1
