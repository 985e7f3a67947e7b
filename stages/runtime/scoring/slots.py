"""Low-rank adapters of several documents that are scored and learned at once, in the order of rounds.py.

    y + (alpha / rank) B_k A_k u    for each product y = W u of an adapted layer, in the row of slot k
    a round: every document's next C targets are scored from its last tokens, at most `window`; then one AdamW step on their mean
    cross-entropy for each document that is not over. The gradient comes from the pass that scores, and is used after the commit.

A document starts with A as drawn from the seed and B = 0 (cold), or with the A that the slot's last document has left (warm); its moments
and steps start at 0. Cold, a document's scores follow from the document alone, up to rounding. Shapes follow from the past: passes of
`group` slots sorted by the width of their windows, which are as wide as if every document coded C targets.
"""

# K slots, g rows of a pass, C targets of a chunk, P numbers of one slot's adapters

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens.rounds import Order, Piece
from . import adaptation
from .adapters import Adapters


class Slots:
    """`finished` has the whole documents of the share that are over, by their index in the share, if there are phases."""

    def __init__(
        self,
        model,
        *,
        slots: int,
        chunk: int,
        window: int,
        phases: tuple[int, ...],
        separator: int,
        shape: dict,
        seed: int,
        optimizer: dict,
        shares: int = 1,
        group: int = 8,
        warm: bool = False,
        longest_first: bool = False,
    ):
        for name, value in (("shares", shares), ("group", group)):
            adaptation.require(name, value, int, 1)
        for name, value in (("warm", warm), ("longest_first", longest_first)):
            adaptation.choose(name, value, (False, True))
        self.order = Order(slots, chunk, shares, phases, separator, longest_first)
        self.model, self.window, self.group, self.warm, self.keep = model, window, group, warm, bool(phases)
        self.optimizer, self.share, self.finished = optimizer, -1, {}
        if model is None:  # only to check the options
            return
        first = Adapters(model, **shape, generator=torch.Generator().manual_seed(seed))
        parts = [(name, pair[i].detach()) for i in (0, 1) for name, pair in first.pairs.items()]  # all B, then all A
        self.scale, self.sizes = first.scale, [(name, part.shape) for name, part in parts]
        self.initial_P = torch.cat([part.flatten() for _, part in parts])
        self.zero = sum(pair[0].numel() for pair in first.pairs.values())
        self.texts, self.gradients = {}, {}

    def renew(self) -> None:
        """Every slot is as at the beginning of a share."""
        self.values, self.optimizers, self.held = {}, {}, {}

    @torch.no_grad()
    def predict(self, seen: Tensor, pieces: list[Piece]) -> Tensor:
        """Logits (R, V) of the targets of the pieces."""
        self._open(seen, pieces)
        trains, logits = all(piece.is_known for piece in pieces), {}
        by_width = sorted(pieces, key=self._width, reverse=True)
        for i in range(0, len(pieces), self.group):
            logits |= self._pass(seen, by_width[i : i + self.group], trains)
        return torch.cat([logits[piece.slot][: piece.last + 1 - piece.first] for piece in pieces])

    @torch.no_grad()
    def learn(self, seen: Tensor, pieces: list[Piece]) -> None:
        for piece in pieces:
            self.texts[piece.slot] = torch.cat((self.texts[piece.slot], seen[piece.first : piece.last + 1]))
            if not piece.is_over:
                self.values[piece.slot].grad = self.gradients.pop(piece.slot)
                self.optimizers[piece.slot].step()
            elif self.keep:
                self.finished[piece.index] = self.texts[piece.slot]

    def _open(self, seen: Tensor, pieces: list[Piece]) -> None:
        if pieces[0].share != self.share:
            self.share, self.finished = pieces[0].share, {}
            self.renew()
        for piece in pieces:
            slot = piece.slot
            if self.held.get(slot) != piece.document:
                value_P = self.values.setdefault(slot, self.initial_P.clone())
                value_P[: self.zero if self.warm else None] = self.initial_P[: self.zero if self.warm else None]
                # in one pass over the memory, which reads a gradient's numbers in their order there: it must be contiguous
                self.optimizers[slot], self.held[slot] = torch.optim.AdamW([value_P], **self.optimizer, fused=True), piece.document
                self.texts[slot] = seen[:1] if piece.document == 0 else seen.new_tensor([self.order.separator])

    def _start(self, piece: Piece) -> int:
        return max(piece.done + self.order.chunk - self.window, 0)

    def _width(self, piece: Piece) -> int:
        trained = self.model.config.rope_trained_length
        # angles that depend on the width must not depend on who shares the pass
        return self.window if 0 < trained < self.window else piece.done + self.order.chunk - self._start(piece)

    def _pass(self, seen: Tensor, pieces: list[Piece], trains: bool) -> dict[int, Tensor]:
        """Logits (C, V) by slot; with `trains`, the gradients of those that go on are kept."""
        width, chunk = self._width(pieces[0]), self.order.chunk
        inputs_BT, targets_BC = seen.new_zeros(len(pieces), width), seen.new_zeros(len(pieces), chunk)
        for row, piece in enumerate(pieces):
            text = torch.cat((self.texts[piece.slot][self._start(piece) :], seen[piece.first : piece.last]))
            inputs_BT[row, : len(text)] = text
            targets_BC[row, : piece.last + 1 - piece.first] = seen[piece.first : piece.last + 1]
        at_B1 = seen.new_tensor([[piece.done - self._start(piece)] for piece in pieces])
        at_BC = at_B1 + torch.arange(chunk, device=seen.device)
        goes_on = [row for row, piece in enumerate(pieces) if trains and not piece.is_over]
        values_BP, pairs = torch.stack([self.values[piece.slot] for piece in pieces]), {}
        for (name, size), part in zip(self.sizes, values_BP.split([size.numel() for _, size in self.sizes], dim=1), strict=True):
            pairs.setdefault(name, []).append(part.unflatten(1, size).detach().requires_grad_(bool(goes_on)))
        with torch.set_grad_enabled(bool(goes_on)):
            with self._adapted(pairs):
                hidden_BTD = self.model.hidden(inputs_BT)
            hidden_BCD = hidden_BTD.gather(1, at_BC[:, :, None].expand(-1, -1, hidden_BTD.size(2)))
            logits_BCV = self.model.uncapped(hidden_BCD)
            if "head" in pairs:
                logits_BCV = logits_BCV + self._product(hidden_BCD, *pairs["head"])
            logits_BCV = self.model.capped(logits_BCV)
            if goes_on:
                loss = sum(F.cross_entropy(logits_BCV[row], targets_BC[row]) for row in goes_on)
                leaves = [pair[i] for i in (0, 1) for pair in pairs.values()]
                gradient_BP = torch.cat([part.flatten(1) for part in torch.autograd.grad(loss, leaves)], dim=1)
                self.gradients |= {pieces[row].slot: gradient_BP[row] for row in goes_on}
        return {piece.slot: logits_BCV[row].detach() for row, piece in enumerate(pieces)}

    def _product(self, u_BTD: Tensor, up_BOR: Tensor, down_BRI: Tensor) -> Tensor:
        return self.scale * (u_BTD @ down_BRI.mT) @ up_BOR.mT

    @contextlib.contextmanager
    def _adapted(self, pairs: dict[str, list[Tensor]]):
        """The layers add their adapters' products to their own."""

        def adds(pair: list[Tensor]):
            return lambda layer, inputs, output: output + self._product(inputs[0], *pair)

        hooks = [self.model.get_submodule(name).register_forward_hook(adds(pair)) for name, pair in pairs.items() if name != "head"]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
