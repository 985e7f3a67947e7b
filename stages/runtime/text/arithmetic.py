"""Arithmetic coding of symbols with a full distribution for each: a byte-wise range coder in exact integers.

    f_a = 1 + floor(p_a (2^K - V)),  what is left of 2^K goes to the most probable symbol (the first of equals);  K = 30
    low, range: 64-bit state; symbol a with cumulated frequency F narrows to  low + r F,  r f_a  with  r = floor(range / 2^K)

Every symbol has a frequency of at least 1, so any symbol can be coded. The cost is less than 1e-6 bits per symbol above -log2 p. Source of
the carry-propagating form: G. N. N. Martin, Range encoding, 1979.
"""

import numpy as np

PRECISION = 30
TOP, BOTTOM = 1 << 64, 1 << 56


def frequencies(logp: np.ndarray) -> np.ndarray:
    """Integer frequencies with the sum 2^PRECISION over the last axis, from the logarithms of distributions (..., V)."""
    return shares(np.exp(logp))


def shares(p: np.ndarray) -> np.ndarray:
    """The same from the distributions themselves. ValueError if one of them is none."""
    counts = 1 + np.floor(p * ((1 << PRECISION) - p.shape[-1])).astype(np.int64)
    counts.reshape(-1)[np.arange(0, p.size, p.shape[-1]) + p.argmax(-1).reshape(-1)] += ((1 << PRECISION) - counts.sum(-1)).reshape(-1)
    if counts.min() < 1:
        raise ValueError("the evaluator's row is no distribution, so nothing can be coded with it")
    return counts


class Encoder:
    """Call `put` for each symbol, then `finish`."""

    def __init__(self):
        self.low, self.range, self.out = 0, TOP - 1, bytearray()

    def put(self, symbol: int, counts_V: np.ndarray) -> None:
        part = self.range >> PRECISION
        self.low += part * int(counts_V[:symbol].sum())
        self.range = part * int(counts_V[symbol])
        if self.low >= TOP:
            self._carry()
        while self.range < BOTTOM:
            self.out.append(self.low >> 56)
            self.low = (self.low << 8) & (TOP - 1)
            self.range <<= 8

    def finish(self) -> bytes:
        """The whole stream. A decoder reads zeros after its end, so trailing zeros are left out."""
        target = self.low + self.range - 1
        for keep in range(1, 9):  # the shortest number in low .. low + range - 1
            mask = (1 << (64 - 8 * keep)) - 1
            value = target & ~mask
            if value >= self.low:
                break
        self.low = value
        if self.low >= TOP:
            self._carry()
        return bytes(self.out + self.low.to_bytes(8, "big")).rstrip(b"\0")

    def _carry(self) -> None:
        self.low -= TOP
        place = len(self.out) - 1
        while self.out[place] == 255:
            self.out[place] = 0
            place -= 1
        self.out[place] += 1


class Decoder:
    """`get` returns the symbols, if it gets the same frequencies in the same order."""

    def __init__(self, stream: bytes):
        self.stream, self.place, self.range = stream, 8, TOP - 1
        self.code = int.from_bytes(stream[:8].ljust(8, b"\0"), "big")  # the coded number minus low

    def get(self, counts_V: np.ndarray) -> int:
        part = self.range >> PRECISION
        ends_V = np.cumsum(counts_V)
        value = min(self.code // part, (1 << PRECISION) - 1)
        symbol = int(np.searchsorted(ends_V, value, side="right"))
        self.code -= part * int(ends_V[symbol] - counts_V[symbol])
        self.range = part * int(counts_V[symbol])
        while self.range < BOTTOM:
            byte = self.stream[self.place] if self.place < len(self.stream) else 0
            self.code = (self.code << 8) | byte
            self.place += 1
            self.range <<= 8
        return symbol
