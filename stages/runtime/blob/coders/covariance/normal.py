"""Code integers as a rounded normal variable: tables by standard deviation, and the coding steps that use them.

    P(k) = Phi((k + 1/2 - m) / s) - Phi((k - 1/2 - m) / s),    s = 2^(class/8) / 8,    m = base + (position + 1/2) / 16

P is stored as integers that add up to 65536, each at least 1, for the k within 5 s of the base. One more symbol stands for all other k,
which are stored separately in full. For an s above the largest class, the lowest bits are coded as uniform. No code here calls exp or log:
every float is the result of one correctly rounded IEEE 754 operation, so the tables have the same bits on every machine.
"""

from functools import cache

import numpy as np

from .rans import BITS, TOTAL, uniform

POSITIONS = 16
WIDTH = 256  # entries of a table
CLASSES = 61  # the last one has s = 22.6, which takes 234 entries
GRID = 4096  # points of Phi per standard deviation
MAX_SHIFT = 16


def power(sixteenths: np.ndarray) -> np.ndarray:
    """2^(n/16) with the same bits on every machine, from four square roots, products and ldexp."""
    root, parts = 2.0, [1.0]
    for _ in range(4):
        root = float(np.sqrt(root))
    for _ in range(15):
        parts.append(parts[-1] * root)
    return np.ldexp(np.array(parts)[sixteenths & 15], sixteenths >> 4)


def sixteenths(squares: np.ndarray) -> np.ndarray:
    """16 log2(sqrt(squares)), rounded, for positive numbers; limited to +-24 octaves."""
    return np.searchsorted(power(np.arange(-767, 768, 2)), squares) - 384


@cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """Cumulative frequencies, int32 (CLASSES * POSITIONS * WIDTH), and by class how far a table reaches on either side of the base."""
    x = (np.arange(-6 * GRID, 6 * GRID) + 0.5) / GRID
    t = x * x / 2048
    density = 1 / (1 + t * (1 + t * (0.5 + t / 6)))  # exp(-x^2/2) is its 1024th power
    for _ in range(10):
        density = density * density
    phi = np.concatenate([[0], np.cumsum(np.rint(density * 2.0**36).astype(np.int64))])
    phi = phi / phi[-1]
    s = power(2 * np.arange(CLASSES) - 48)
    half = np.floor(5 * s).astype(np.int64) + 2
    out = np.full((CLASSES, POSITIONS, WIDTH), TOTAL, np.int32)
    for c in range(CLASSES):
        count = 2 * int(half[c]) + 2
        edges = np.arange(count + 1) - half[c] - 0.5 - (np.arange(POSITIONS)[:, None] + 0.5) / POSITIONS
        at = phi[np.clip(np.rint((edges / s[c] + 6) * GRID), 0, 12 * GRID).astype(np.int64)]
        out[c, :, : count + 1] = np.rint((at - at[:, :1]) * (TOTAL - count - 1)) + np.arange(count + 1)
    return out.reshape(-1), half


class Shapes:
    """The tables for a panel of classes (any shape), used column by column."""

    def __init__(self, classes: np.ndarray):
        shift = np.clip((classes - CLASSES + 8) >> 3, 0, MAX_SHIFT)
        classes = np.clip(classes - 8 * shift, 0, CLASSES - 1)
        self.half = tables()[1][classes]
        self.row = classes * (POSITIONS * WIDTH)
        self.shift = shift if shift.any() else None
        self.first = 1 << (int(2 * self.half.max(initial=0) + 2).bit_length() - 1)  # the first step of a binary search

    def code(self, stream, column: int, center: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Code one integer per element of `center`, or decode them if `values` is None."""
        cumulative, half, row = tables()[0], self.half[column], self.row[column]
        shift = None if self.shift is None else self.shift[column]
        if shift is not None:
            center = np.ldexp(center - (np.ldexp(1.0, shift) - 1) / 2, -shift)
        base = np.floor(center)
        row = row + (np.floor((center - base) * POSITIONS) * WIDTH).astype(np.int64)
        base = base.astype(np.int64) - half
        last = 2 * half + 2
        if values is None:
            index = np.empty(len(row), np.int64)
            for i in range(0, len(row), stream.lanes):
                low = row[i : i + stream.lanes]
                slot, at, step = stream.peek(len(low)), low.copy(), self.first
                while step:
                    at += step * (cumulative[at + step] <= slot)
                    step >>= 1
                start = cumulative[at]
                stream.take(slot, start, cumulative[at + 1] - start)
                index[i : i + stream.lanes] = at - low
            out = base + index
        else:
            index = (values if shift is None else values >> shift) - base
            index[(index < 0) | (index >= last)] = 1 << BITS
            index = np.minimum(index, last)
            start = cumulative[row + index]
            stream.put(start, cumulative[row + index + 1] - start)
            out = values
        if shift is not None:
            sizes = np.int64(1) << shift
            low = uniform(stream, sizes, None if values is None else values & (sizes - 1))
            out = (out << shift) + low if values is None else values
        apart = (index == last).nonzero()[0]
        if len(apart) and values is None:
            out[apart] = stream.escape(len(apart))
        elif len(apart):
            stream.escapes.append(values[apart])
        return out
