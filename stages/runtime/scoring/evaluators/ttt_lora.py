"""Score-first test-time training of low-rank adapters, which start again for each document.

    W <- W + (alpha / rank) B A  for the layers in `targets`;  at a document's start A uniform in ±1/sqrt(inputs), B = 0, moments 0
    chunk by chunk of the stream:  score the chunk's targets from the last `window` tokens of their document;  then one AdamW step on
    their mean cross-entropy, unless the document has ended

Documents come in the order of the stream, one at a time, and share nothing. A chunk that contains a document's start is scored and learned
in parts. With `slots`, so many documents are scored at once, chunks begin where their document does, and targets are coded in the order of
rounds.py. The published code takes 64 at once from a queue that is sorted by length and that 8 GPUs share, so its result depends on the
timing of the GPUs, and no decoder knows the order. `longest_first` has such an order, to reproduce figures; it does not claim to be causal.
Source: parameter-golf #77, #1530; #1855 (rank 80 to 96, chunk 48, alpha 144, rate 1e-4, betas 0 and 0.999, weight decay 0.5 to 1).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from ..adapters import KINDS, Adapters
from ..slots import Slots

CLAIMS = ("causal", "score_first", "single_pass")


def claims(options: dict) -> tuple[str, ...]:
    """With slots, the order depends on the declared numbers; a document moves no other one's scores if nothing goes on to later ones."""
    if not options.get("slots"):
        return CLAIMS
    found = CLAIMS[1:] if options.get("longest_first") else CLAIMS
    return (*found, "uses_length", *(() if options.get("warm") or options.get("phases") else ("documents_apart",)))


class Evaluator:
    """Options: window and chunk in tokens; rank, alpha, targets, learning_rate, beta1, beta2, weight_decay; reset_at: the id that starts a
    document; seed: for the initial A. slots: how many documents at once (0: one after the other, in the grid of the stream); with them,
    shares: parts of the documents that know nothing of each other; group: slots of one pass; warm: a slot keeps its A; longest_first."""

    carries, phases = True, ()

    def __init__(
        self,
        model,
        *,
        window: int,
        chunk: int,
        rank: int,
        alpha: float,
        targets: list[str],
        learning_rate: float,
        beta1: float,
        beta2: float,
        weight_decay: float,
        reset_at: int,
        seed: int,
        slots: int = 0,
        **at_once,
    ):
        for name, value in (("window", window), ("chunk", chunk), ("rank", rank), ("reset_at", reset_at), ("seed", seed), ("slots", slots)):
            adaptation.require(name, value, int, 0 if name in ("reset_at", "seed", "slots") else 1)
        for name, value, high in (
            ("alpha", alpha, 1e6),
            ("learning_rate", learning_rate, 1e3),
            ("weight_decay", weight_decay, 1e3),
            ("beta1", beta1, 0.9999),
            ("beta2", beta2, 0.99999),
        ):
            adaptation.require(name, value, (int, float), 0, high)
        if not isinstance(targets, list) or not targets or set(targets) - set(KINDS) or chunk > window:
            raise ValueError(
                f"ttt_lora takes targets among {', '.join(KINDS)} and a chunk of at most the window, not {targets!r} and {chunk}"
            )
        self.model, self.window, self.chunk, self.reset_at, self.seed = model, window, chunk, reset_at, seed
        self.shape = {"rank": rank, "alpha": alpha, "targets": targets}
        self.optimizer_options = {"lr": learning_rate, "betas": (beta1, beta2), "weight_decay": weight_decay, "eps": 1e-10}
        self.document, self.adapters, self.optimizer = -1, None, None
        self.slots = self.coding_order = None
        if slots:
            at_once |= {"window": window, "chunk": chunk, "phases": tuple(self.phases), "separator": reset_at, "seed": seed}
            self.slots = Slots(model, slots=slots, shape=self.shape, optimizer=self.optimizer_options, **at_once)
            self.coding_order = self.slots.order
        elif at_once:
            raise ValueError(f"set slots to take the options {', '.join(at_once)}")
        self.read, self.start = 0, 0  # the number of tokens in which documents' starts were looked for, and the last start among them

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        for first in range(1, num_targets + 1, self.chunk):
            last = min(first + self.chunk - 1, num_targets)
            start = max(last - self.window, 0)
            yield [windows.Window(start, last - start, first, last)]

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list) -> Tensor:
        if self.slots:
            return self.slots.predict(seen, chunk)
        (window,) = chunk
        return torch.cat(
            [
                self._logits(seen, window, first, last, document, self.adapters if document == self.document else None)
                for first, last, document in self.parts(seen, window)
            ]
        )

    def learn(self, seen: Tensor, chunk: list) -> None:
        """One step on each part of the chunk, except parts with which their document ends."""
        if self.slots:
            return self.slots.learn(seen, chunk)
        (window,) = chunk
        for first, last, document in self.parts(seen, window):
            if document != self.document:
                self._open(document)
            if seen[last] == self.reset_at:
                continue
            with torch.enable_grad():
                loss = F.cross_entropy(self._logits(seen, window, first, last, document, self.adapters), seen[first : last + 1])
                gradients = torch.autograd.grad(loss, self.adapters.parameters())
            for parameter, gradient in zip(self.adapters.parameters(), gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()

    def parts(self, seen: Tensor, window: windows.Window) -> list[tuple[int, int, int]]:
        """(first target, last target, position of the document's first token) of each run of targets of one document.

        A target belongs to the document of the token before it, so the token that starts a document is the last target of the one before.
        """
        if window.first < self.read:
            self.read, self.start = 0, 0
        places = ((seen[self.read : window.last] == self.reset_at).nonzero()[:, 0] + self.read).tolist()
        self.read, self.start = window.first, max((place for place in places if place < window.first), default=self.start)
        starts = [self.start, *(place for place in places if place >= window.first)]
        ends = [*starts[1:], window.last]
        firsts = [window.first, *(start + 1 for start in starts[1:])]
        return list(zip(firsts, ends, starts, strict=True))

    def _open(self, document: int) -> None:
        self.document = document
        self.adapters = Adapters(self.model, **self.shape, generator=torch.Generator().manual_seed(self.seed))
        self.optimizer = torch.optim.AdamW(self.adapters.parameters(), **self.optimizer_options)

    def _logits(self, seen: Tensor, window: windows.Window, first: int, last: int, document: int, adapters: Adapters | None) -> Tensor:
        # computed to the window's end and then cut; a shape that depends on later tokens would change the rounding of earlier rows
        start = max(window.start, document)
        begin = max(window.first - 1, start)
        inputs_1T = seen[None, start : window.last]
        hidden_RD = (adapters.hidden(inputs_1T) if adapters else self.model.hidden(inputs_1T))[0, begin - start :]
        logits_RV = adapters.head(hidden_RD) if adapters else self.model.head(hidden_RD)
        return logits_RV[first - 1 - begin : last - begin]
