"""Run an evaluator token by token: it gives the distribution of the next token, and only then gets the token.

    stream = Stream(evaluator, num_targets, first_token)
    stream.dist() -> log p (V), float64         may be called again; the evaluator sees 0 for tokens that are not known yet
    stream.push(ids)                            these tokens become known, without asking for their distributions

For a target, `predict` gets the chunk cut after the window that scores it, and only that window if the evaluator carries nothing. When all
targets of a chunk are known, an evaluator that carries something gets the whole chunk once more, first in `predict` and then in `learn`,
exactly as from the harness; an evaluator with `walk` does both in it, to the same bits. So it learns where the contract says, and nowhere
else. An evaluator with `cuts` says that its chunks, of one window each, may end at any target, which changes nothing but rounding: its
chunk then ends at the target that is asked for, whose row comes from `ask`, and nothing is computed twice. With `whole`, `predict` gets the
whole chunk for a target too: then its shapes are those of the harness, and so are its bits. Encoder and decoder use this form; their
distributions come from the same shapes and are equal bit for bit on one machine. An evaluator with an order of its own (rounds.py) gets
only the piece that scores the target, and with `whole` all pieces of the round; tokens come in coding order.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..tokens import windows


class Stream:
    """Only for evaluators that are causal with their options; others would need tokens that are not known yet."""

    def __init__(self, evaluator, num_targets: int, first_token: int, *, documents: int = 1, whole: bool = False):
        self.evaluator, self.carries, self.next_target, self.whole = evaluator, getattr(evaluator, "carries", True), 1, whole
        self.tokens = torch.zeros(num_targets + 1, dtype=torch.int64)
        self.tokens[0] = first_token
        order = getattr(evaluator, "coding_order", None)
        self.rounds = None if order is None else order.rounds(documents, num_targets)
        self.chunks = evaluator.chunks(num_targets) if order is None else iter(self._round, [])
        self.cuts = getattr(evaluator, "cuts", False) and not whole
        self.chunk, self.rest, self.asked = next(self.chunks, None), None, False
        self.walk = getattr(evaluator, "walk", self._walk)

    def dist(self) -> np.ndarray:
        """ln p of every token as the next one."""
        if self.cuts:
            self._cut()
            logits_V = self.evaluator.ask(self.tokens[: self.next_target + 1], self.chunk)
        else:
            logits_V = self._predicted(self.chunk)
        logits_V = logits_V.detach().double()
        return (logits_V - torch.logsumexp(logits_V, dim=-1)).cpu().numpy()

    def push(self, ids: Sequence[int]) -> None:
        """Give the next tokens to the evaluator. ValueError if they are more than were declared."""
        if self.next_target + len(ids) > len(self.tokens):
            raise ValueError(f"more tokens than the {len(self.tokens) - 1} targets that were declared")
        self.tokens[self.next_target : self.next_target + len(ids)] = self.tokens.new_tensor(ids)
        self.next_target += len(ids)
        self.chunk = self.chunk if self.rounds is None else self._round()
        while self.chunk and self.chunk[-1].last < self.next_target:
            if self.carries:
                (self.evaluator.learn if self.asked else self.walk)(self.tokens[: self.chunk[-1].last + 1], self.chunk)
            if self.rounds:
                self.rounds.close(self.chunk)
            self.chunk, self.rest, self.asked = self.rest or next(self.chunks, None), None, False

    def _predicted(self, chunk: list) -> torch.Tensor:
        if not self.whole:
            place = next(i for i, window in enumerate(chunk) if window.last >= self.next_target)
            chunk = chunk[0 if self.carries and not self.rounds else place : place + 1]
        return self.evaluator.predict(self.tokens[: chunk[-1].last + 1], chunk)[self.next_target - chunk[0].first]

    def _cut(self) -> None:
        """Let the chunk end at the next target. Its last target is no input, so `learn` may follow the `ask` that comes now."""
        (window,) = self.chunk
        if window.last > self.next_target:
            length = self.next_target - window.start
            self.chunk = [replace(window, length=length, last=self.next_target)]
            self.rest = [windows.Window(self.next_target, window.length - length, self.next_target + 1, window.last)]
        self.asked = True

    def _walk(self, seen: torch.Tensor, chunk: list) -> None:
        self.evaluator.predict(seen, chunk)
        self.evaluator.learn(seen, chunk)

    def _round(self) -> list:
        return self.rounds.pieces(self.tokens, self.next_target - 1)
