"""The order in which targets are coded when several documents are scored at once. A decoder can follow it.

A document is the tokens from its separator to the next one inclusive, or to the end of the stream; its targets are all but its first token.
Document i of n belongs to share (i - n) mod R, and the shares are coded one after the other. A share has K slots, and in each round

    free slots take the next documents of the share, in the order of the stream
    slot by slot, each document that is not over codes its next C targets, or fewer if it ends

The last document of the stream, of which no separator tells the end, begins when all others of its share are over; it is in the last share.
No document at or behind a barrier, which is a number of documents of a share, begins before all documents of the share below it are over.
So the number of targets and the number of documents is all that a decoder must be told. Every sequence of tokens is the coding order of
one stream.
"""

# N targets, n documents, K slots, C targets of a chunk, R shares

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """`longest_first` is the order of the published code (#1610, #2135), which is no code: a decoder does not know the lengths."""

    slots: int
    chunk: int
    shares: int = 1
    barriers: tuple[int, ...] = ()
    separator: int = 1
    longest_first: bool = False

    # methods, so that the harness does not import this module, which few artifacts need
    def rounds(self, documents: int, num_targets: int) -> "Rounds":
        return Rounds(self, documents, num_targets)

    def starts(self, tokens: np.ndarray) -> np.ndarray:
        """The positions at which documents begin in a stream; their number is the same in coding order."""
        return np.append(0, np.flatnonzero(tokens[1:-1] == self.separator) + 1)

    def targets(self, tokens: np.ndarray) -> np.ndarray:
        """The numbers 1..N of the targets of a stream, in coding order."""
        starts, num_targets = self.starts(tokens), len(tokens) - 1
        ends = np.append(starts[1:], num_targets)
        if self.longest_first:
            ranks = np.append(np.argsort((starts - ends)[:-1], kind="stable"), len(starts) - 1)
            starts, ends = starts[ranks], ends[ranks]
        rounds, found = Rounds(self, len(starts), num_targets), []
        while rounds.next_target <= num_targets:
            pieces, at = [], rounds.next_target
            for slot, document, index, done in rounds.slots:
                first = int(starts[document]) + done + 1
                last = min(first + self.chunk - 1, int(ends[document]))
                found.append(np.arange(first, last + 1))
                pieces.append(Piece(rounds.share, slot, document, index, done, at, at + last - first, last == ends[document]))
                at += last + 1 - first
            rounds.close(pieces)
        return np.concatenate(found)


@dataclass(frozen=True)
class Piece:
    """The targets first..last in coding order that one document codes in a round. `index` counts the documents of the share, `done` the
    targets of this one before. `is_known`: all its tokens are known; until then its end is a guess."""

    share: int
    slot: int
    document: int
    index: int
    done: int
    first: int
    last: int
    is_over: bool
    is_known: bool = True


class Rounds:
    """Which document is in which slot. `slots` has (slot, document, index, done) of the present round."""

    def __init__(self, order: Order, documents: int, num_targets: int):
        self.order, self.documents, self.num_targets = order, documents, num_targets
        self.share, self.begun, self.next_target, self.slots = -1, 0, 1, []
        self._fill()

    def pieces(self, tokens, known: int | None = None) -> list[Piece]:
        """The pieces of the present round, read from `tokens` (N + 1) in coding order, of which `known` targets are known (None: all)."""
        first, found, chunk = self.next_target, [], self.order.chunk
        ids = tokens[first : min(first + len(self.slots) * chunk, self.num_targets + 1)].tolist()
        for slot, document, index, done in self.slots if ids else ():
            part = ids[first - self.next_target : first - self.next_target + chunk]
            size = part.index(self.order.separator) + 1 if self.order.separator in part else len(part)
            last = first + size - 1
            over = size < len(part) or part[-1:] == [self.order.separator] or last == self.num_targets
            found.append(Piece(self.share, slot, document, index, done, first, last, over, known is None or last <= known))
            first = last + 1
        return found

    def close(self, pieces: list[Piece]) -> None:
        """Go on to the next round."""
        self.next_target = pieces[-1].last + 1
        self.slots = [(p.slot, p.document, p.index, p.done + p.last + 1 - p.first) for p in pieces if not p.is_over]
        self._fill()

    def walk(self, tokens):
        """All rounds of `tokens`, which are only read when their round begins."""
        while pieces := self.pieces(tokens):
            yield pieces
            self.close(pieces)

    def _fill(self) -> None:
        order = self.order
        held = {slot for slot, *_ in self.slots}
        for slot in range(order.slots):
            if slot in held:
                continue
            while (document := self._next()) >= self.documents and self.share < order.shares - 1 and not self.slots:
                self.share, self.begun = self.share + 1, 0
            if self.slots and (self.begun in order.barriers or document >= self.documents - 1):
                break
            self.slots.append((slot, document, self.begun, 0))
            self.begun += 1
        self.slots.sort()

    def _next(self) -> int:
        return (self.documents + self.share) % self.order.shares + self.begun * self.order.shares if self.share >= 0 else self.documents
