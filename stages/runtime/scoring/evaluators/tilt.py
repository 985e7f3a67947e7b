"""Another evaluator, tilted towards the token that followed the same context before; scoring/hints.py has the formulas.

The other evaluator learns from its own distribution, without the tilt, as published. Targets are counted in the order in which they are
coded. A context is the `order` - 1 tokens before in the stream, also those of earlier documents; where several documents are scored at
once, it is those of the same document, and each share of the documents has counts of its own. A target with fewer tokens before it has no
hint.
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
        self.pending: tuple[Tensor, dict] = torch.zeros(0), {}

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        return self.network.chunks(num_targets)

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list) -> Tensor:
        logits_RV = self.network.predict(seen, chunk)
        rows, keys, targets = self._contexts(seen, chunk)
        found, changed = self.hints.look_up(keys, targets)
        self.pending = seen[chunk[0].first : chunk[-1].last + 1].clone(), changed
        if found:
            places = ([rows[row] for row, _ in found], [hint for _, hint in found])
            logits_RV = logits_RV.index_put(
                tuple(torch.tensor(place, device=logits_RV.device) for place in places), logits_RV.new_tensor(self.boost), accumulate=True
            )
        return logits_RV

    def learn(self, seen: Tensor, chunk: list) -> None:
        """Count the chunk; anew if `predict` ran with other targets, as in token-by-token scoring."""
        self.network.learn(seen, chunk)
        targets, changed = self.pending
        if not torch.equal(targets, seen[chunk[0].first : chunk[-1].last + 1]):
            changed = self.hints.look_up(*self._contexts(seen, chunk)[1:])[1]
        self.hints.counts.update(changed)
        for piece in chunk if self.coding_order else ():
            text = np.append(self._tail(seen, piece), seen[piece.first : piece.last + 1].cpu().numpy())
            self.tails[piece.document] = text[-self.length :]
            if piece.is_over:
                del self.tails[piece.document]

    def _contexts(self, seen: Tensor, chunk: list) -> tuple[list[int], list[int], list[int]]:
        """Row in the chunk, key and token of each of its targets that has a context."""
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
        rows, keys, targets = [], [], []
        for row, text, size in parts:
            if (missing := max(size + self.length - len(text), 0)) < size:
                rows += range(row + missing, row + size)
                keys += hints.keys(text, self.length)
                targets += text[self.length :].tolist()
        return rows, keys, targets

    def _tail(self, seen: Tensor, piece) -> np.ndarray:
        """The last tokens of the piece's document before it. A document begins with its separator, the first one with the first token."""
        begun = int(seen[0]) if piece.document == 0 else self.coding_order.separator
        return self.tails.get(piece.document, np.array([begun]))
