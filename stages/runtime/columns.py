"""Codes a matrix of integers block by block of rows: all rows of a block side by side, its columns one after the other.

    t_ij = w_i1 m1_ij + w_i2 m2_ij (+ w_i3 partner_ij) + noise,     k_ij rounded normal with that mean and deviation d_j rho_i

m1 and m2 are what two covariances say (regression.py), the partner is the same unit's row in another matrix of the layer: what was left of it.
Within a row the weights w and the scale rho follow from the columns before the panel. t, m and e are in 1/256 of d_j.
Why decoder and encoder never part, and why no machine parts from another: docs/range-coder.md.
"""

# R rows, W columns, B rows of a block, P columns of a panel

from dataclasses import dataclass

import numpy as np

from .normal import Shapes, sixteenths
from .regression import MAX_X, ONE, UNIT, WEIGHT, Moments, Pool, experts, solve

FIRST_BLOCK, LAST_BLOCK = 128, 1024
PANEL = 16
FINE = 256
SURE = 10.0          # columns after which a row's own weights count as much as the first guess
SURE_PARTNER = 30.0
SURE_SCALE = 30.0
SURE_COLUMN = 100.0  # rows, the same for the deviation of a column
FAR = 1 << 22


@dataclass
class Known:
    """What earlier matrices leave to later ones."""

    pools: dict[int, Pool]                       # by width
    partners: dict[tuple[int, str], np.ndarray]  # int16 (W, R), by layer and role


def blocks(rows: int) -> list[tuple[int, int]]:
    """Bounds of the blocks: half as many rows as are known, within limits."""
    out, start = [], 0
    while start < rows:
        size = min(max(FIRST_BLOCK, start // 2), LAST_BLOCK, rows - start)
        out.append((start, start + size))
        start += size
    return out


def spread(rows: int) -> np.ndarray:
    """An order of rows in which neighbours come late: by their reversed bits."""
    bits = max(rows - 1, 0).bit_length()
    index, key = np.arange(rows), np.zeros(rows, np.int64)
    for bit in range(bits):
        key |= (index >> bit & 1) << (bits - 1 - bit)
    return np.argsort(key)


def code(stream, shape: tuple[int, int], unit_W: np.ndarray, pool: Pool, role: str, partner_WR: np.ndarray | None,
         values_WR: np.ndarray | None) -> tuple[np.ndarray, Moments, np.ndarray]:
    """Code the matrix, `values_WR` None: decode it; its values, its moments, what was left of each in 1/256 of a deviation.

    `unit_W` is what a step is in each column, in x; all arrays have the columns first."""
    rows, width = shape
    order_R = spread(rows)
    out_WR, left_WR = np.empty((width, rows), np.int64), np.empty((width, rows), np.int16)
    moments, rho = Moments(width), 1.0
    seen, square_W = 0, np.zeros(width)
    for a, b in blocks(rows):
        index_B = order_R[a:b]
        lowers, deviation_W = experts(moments, pool, role)
        deviation_W *= np.sqrt((square_W / FINE**2 + SURE_COLUMN) / (seen + SURE_COLUMN))
        block = _Block(stream, unit_W, lowers, deviation_W, rho, b - a, None if partner_WR is None else partner_WR[:, index_B])
        for first in range(0, width, PANEL):
            block.panel(first, min(first + PANEL, width), None if values_WR is None else values_WR[:, index_B])
        out_WR[:, index_B] = block.values_WB
        scale_B = (SURE_SCALE * rho + block.square_B) / (SURE_SCALE + width)
        left_WB = _near(np.rint(block.left_WB / np.sqrt(scale_B)), MAX_X - 1)
        left_WR[:, index_B] = left_WB
        square_W += (left_WB * left_WB).sum(axis=1)
        seen += b - a
        rho = float(np.sort(scale_B)[len(scale_B) // 2])
        moments.add(block.x_WB, np.clip(np.rint(WEIGHT * rho / scale_B), 1, 4 * WEIGHT))
    return out_WR, moments, left_WR


class _Block:
    """One block of rows under way."""

    def __init__(self, stream, unit_W, lowers, deviation_W, rho, rows, partner_WB):
        self.stream, self.unit_W, self.lowers, self.partner_WB = stream, unit_W, lowers, partner_WB
        width = len(unit_W)
        self.fine_W = FINE / deviation_W
        self.step_W = deviation_W / (FINE * unit_W)  # 1/256 of a deviation, in codes
        self.class_W = sixteenths((deviation_W / unit_W) ** 2) + 48
        self.e = [np.zeros((width, rows)) for _ in lowers]
        self.values_WB, self.left_WB = np.empty((width, rows), np.int64), np.empty((width, rows))
        self.x_WB, self.square_B, self.prior_square = np.empty((width, rows)), np.zeros(rows), SURE_SCALE * rho
        guesses = [1.0] + [0.0] * (len(lowers) - 1 + (partner_WB is not None))
        sure = [SURE] * len(lowers) + [SURE_PARTNER] * (partner_WB is not None)
        zero = np.zeros(rows)
        self.normal = [[zero + sure[i] * (i == j) for j in range(len(sure))] for i in range(len(sure))]
        self.target = [zero + s * g for s, g in zip(sure, guesses, strict=True)]

    def panel(self, a: int, b: int, known_WB: np.ndarray | None) -> None:
        """Columns a to b."""
        sums = [lower[a:b, :a] @ e[:a] for lower, e in zip(self.lowers, self.e, strict=True)]
        weights = solve(self.normal, self.target)
        scale_B = (self.prior_square + self.square_B) / (SURE_SCALE + a)
        shapes = Shapes((sixteenths(scale_B) + self.class_W[a:b, None] + 1) >> 1)
        means_PB, target_PB = [np.empty_like(self.square_B, shape=(b - a, len(scale_B))) for _ in weights], []
        guess_PB = []
        if self.partner_WB is not None:
            means_PB[-1] = self.partner_WB[a:b].astype(np.float64)
        for p, j in enumerate(range(a, b)):
            guess = 0.0
            mus = [np.rint(total[p] * (1 / ONE)) for total in sums]
            for mean_PB, mu in zip(means_PB, mus, strict=False):
                mean_PB[p] = _near(np.rint(mu * self.fine_W[j]), MAX_X)
            for weight, mean_PB in zip(weights, means_PB, strict=True):
                guess = guess + weight * mean_PB[p]
            center = _near(guess * self.step_W[j], 1 << 31)
            value = shapes.code(self.stream, p, center, None if known_WB is None else known_WB[j])
            x = _near(np.rint(value * self.unit_W[j]), MAX_X)
            for lower, e, total, mu in zip(self.lowers, self.e, sums, mus, strict=True):
                rest = e[j] = _near(x - mu, 2 * MAX_X)
                if j + 1 < b:
                    total[p + 1:] += lower[j + 1:b, j, None] * rest
            self.values_WB[j], self.x_WB[j] = value, x
            target_PB.append(_near(np.rint(x * self.fine_W[j]), MAX_X))
            guess_PB.append(guess)
        self._learn(a, b, means_PB, np.array(target_PB), np.array(guess_PB))

    def _learn(self, a, b, means_PB, target_PB, guess_PB) -> None:
        """Sums of integers over the panel, so that their order does not matter."""
        for i, mean_PB in enumerate(means_PB):
            self.target[i] = self.target[i] + (mean_PB * target_PB).sum(axis=0) / FINE**2
            for j in range(i + 1):
                self.normal[i][j] = self.normal[j][i] = self.normal[i][j] + (mean_PB * means_PB[j]).sum(axis=0) / FINE**2
        left_PB = self.left_WB[a:b] = _near(np.rint(target_PB - guess_PB), MAX_X)
        self.square_B += (left_PB * left_PB).sum(axis=0) / FINE**2


def _near(x: np.ndarray, limit: float) -> np.ndarray:
    return np.minimum(np.maximum(x, -limit), limit)
