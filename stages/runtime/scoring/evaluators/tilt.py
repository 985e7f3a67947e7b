"""Another evaluator, tilted towards the token that followed the same context before; scoring/hints.py has the formulas.

The other evaluator learns from its own distribution, without the tilt, as published. Targets are counted in the order in which they are
coded. A context is the `order` - 1 tokens before in the stream, also those of earlier documents. A target with fewer tokens before it has
no hint. Where several documents are scored at once, a context is of one document, each share of the documents has counts of its own, and
the documents of one round do not see each other's targets of that round: a row then depends on one piece and can be asked for alone.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation, hints
from . import sliding, ttt_lora, ttt_phased

CLAIMS = ("causal", "score_first", "single_pass")
NETWORKS = {"sliding": sliding, "ttt_lora": ttt_lora, "ttt_phased": ttt_phased}


class Evaluator:
    """`network`: the other evaluator, which has all further options; order: tokens of a context and its target; confidence; boost, in
    nats."""

    carries = True

    def __init__(self, model, *, network: str, order: int, confidence: float, boost: float, **options):
        adaptation.choose("network", network, tuple(NETWORKS))
        adaptation.require("order", order, int, 2, len(hints.MULTIPLIERS) + 1)
        adaptation.require("confidence", confidence, (int, float), 0.5 + 1e-9, 1)
        adaptation.require("boost", boost, (int, float), 0, 100)
        self.network, self.length, self.confidence, self.boost = NETWORKS[network].Evaluator(model, **options), order - 1, confidence, boost
        self.coding_order = getattr(self.network, "coding_order", None)
        self.share, self.hints, self.tails = 0, hints.Hints(confidence), {}
        self.pending: tuple[Tensor, list[dict]] = torch.zeros(0), []

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        return self.network.chunks(num_targets)

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list) -> Tensor:
        logits_RV = self.network.predict(seen, chunk)
        found, changes = [], []
        for first, keys, targets in self._contexts(seen, chunk):
            hinted, changed = self.hints.look_up(keys, targets)
            found += [(first + row, hint) for row, hint in hinted]
            changes.append(changed)
        self.pending = seen[chunk[0].first : chunk[-1].last + 1].clone(), changes
        if found:
            places = ([row for row, _ in found], [hint for _, hint in found])
            logits_RV = logits_RV.index_put(
                tuple(torch.tensor(place, device=logits_RV.device) for place in places), logits_RV.new_tensor(self.boost), accumulate=True
            )
        return logits_RV

    def learn(self, seen: Tensor, chunk: list) -> None:
        """Count the chunk; anew if `predict` ran with other targets, as in token-by-token scoring."""
        self.network.learn(seen, chunk)
        known, changes = self.pending
        is_same = torch.equal(known, seen[chunk[0].first : chunk[-1].last + 1])
        met: set[int] = set()  # keys of this round that were counted: what a later piece counts for one of them, it counts besides
        for number, (_, keys, targets) in enumerate(self._contexts(seen, chunk)):
            changed = changes[number] if is_same and met.isdisjoint(keys) else self.hints.look_up(keys, targets)[1]
            self.hints.counts.update(changed)
            met.update(keys)
        for piece in chunk if self.coding_order else ():
            text = np.append(self._tail(seen, piece), seen[piece.first : piece.last + 1].cpu().numpy())
            self.tails[piece.document] = text[-self.length :]
            if piece.is_over:
                del self.tails[piece.document]

    def _contexts(self, seen: Tensor, chunk: list) -> list[tuple[int, list[int], list[int]]]:
        """The row of the chunk of the first target that has a context, and key and token of it and of all behind it; for each document."""
        if self.coding_order is None:
            first, last = chunk[0].first, chunk[-1].last
            parts = [(0, seen[max(first - self.length, 0) : last + 1].cpu().numpy(), last + 1 - first)]
        else:
            if chunk[0].share != self.share:
                self.share, self.hints, self.tails = chunk[0].share, hints.Hints(self.confidence), {}
            parts = [
                (p.first - chunk[0].first, np.append(self._tail(seen, p), seen[p.first : p.last + 1].cpu().numpy()), p.last + 1 - p.first)
                for p in chunk
            ]
        found = []
        for row, text, size in parts:
            if (missing := max(size + self.length - len(text), 0)) < size:
                found.append((row + missing, hints.keys(text, self.length), text[self.length :].tolist()))
        return found

    def _tail(self, seen: Tensor, piece) -> np.ndarray:
        """The last tokens of the piece's document before it. A document begins with its separator, the first one with the first token."""
        begun = int(seen[0]) if piece.document == 0 else self.coding_order.separator
        return self.tails.get(piece.document, np.array([begun]))
