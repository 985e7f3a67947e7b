"""Per-document adapters, and at set times an epoch of SGD over all tokens scored so far.

It works like ttt_lora. When the number of scored documents reaches the next entry of `phases`, the model's weights are trained by one epoch
of SGD (momentum 0.9, norm clipped to 1) over all tokens scored until then, in chunks of `phase_chunk` tokens. The learning rate falls along
a half cosine over the chunks, and no attention crosses a document's start. Then the adapters start again.

Here documents come in the order of the stream. The published code sorts them by length, longest first. A decoder does not know this
order, so it would have to be sent. With `slots`, the numbers count the documents of a share; those before a number are over before any
other begins, and the phase trains on them. Source: parameter-golf #1610, #1626; #1855 (phases 833, 1666, 2500; rate 0.001, chunk 32,768).
"""

import copy
import math

import torch
from torch import Tensor

from .. import adaptation
from . import ttt_lora

CLAIMS, claims = ttt_lora.CLAIMS, ttt_lora.claims


class Evaluator(ttt_lora.Evaluator):
    """Options of `ttt_lora`, and phases (numbers of documents, rising), phase_learning_rate, phase_chunk, phase_rows (per step)."""

    def __init__(self, model, *, phases: list[int], phase_learning_rate: float, phase_chunk: int, phase_rows: int, **options):
        if not isinstance(phases, list) or not all(type(n) is int and n > 0 for n in phases) or sorted(set(phases)) != phases:
            raise ValueError(f"ttt_phased takes phases as rising numbers of documents, not {phases!r}")
        self.phases = list(phases)
        super().__init__(model, **options)
        adaptation.require("phase_learning_rate", phase_learning_rate, (int, float), 0, 1e3)
        adaptation.require("phase_chunk", phase_chunk, int, self.window)
        adaptation.require("phase_rows", phase_rows, int, 1)
        self.rate, self.phase_chunk, self.phase_rows = phase_learning_rate, phase_chunk, phase_rows
        self.ended = 0  # documents of which every target is scored
        self.given, self.share = model, -1
        if model is not None and not self.slots:
            self.model = copy.deepcopy(model)  # a copy for this stream only

    def predict(self, seen: Tensor, chunk: list) -> Tensor:
        if self.slots and chunk[0].share != self.share:
            self.share, self.model = chunk[0].share, copy.deepcopy(self.given)  # a copy for this share only
            self.slots.model = self.model
        return super().predict(seen, chunk)

    def learn(self, seen: Tensor, chunk: list) -> None:
        super().learn(seen, chunk)
        if self.slots:
            # the round in which the last document before a barrier ends: all before it are over, and none behind it has begun
            if len(self.slots.finished) in self.phases and any(piece.is_over for piece in chunk):
                self._train(torch.cat([text[index > 0 :] for index, text in sorted(self.slots.finished.items())]))
                self.slots.renew()
            return
        # the last target of a document is the start of the next one
        self.ended += int((seen[chunk[0].first : chunk[0].last + 1] == self.reset_at).sum())
        if self.phases and self.ended >= self.phases[0]:
            while self.phases and self.ended >= self.phases[0]:
                self.phases.pop(0)
            self._train(seen)
            self._open(self.document)

    def _train(self, scored: Tensor) -> None:
        """Train one epoch over all committed tokens, which is one phase."""
        self.model.requires_grad_(True)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.9)
        number = max((len(scored) - 1) // self.phase_chunk, 1)
        for i in range(number):
            tokens = scored[i * self.phase_chunk : min((i + 1) * self.phase_chunk, len(scored) - 1) + 1]
            rate = self.rate / 2 * (1 + math.cos(math.pi * i / max(number - 1, 1)))
            adaptation.sgd_epoch(self.model, tokens, optimizer, rate=rate, window=self.window, rows=self.phase_rows, reset_at=self.reset_at)
        self.model.requires_grad_(False)
