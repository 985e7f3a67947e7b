"""Code a matrix of integers in blocks of rows: all rows of a block in parallel, its columns one after the other.

    t_ij = w_i1 m1_ij + w_i2 m2_ij (+ w_i3 partner_ij) + noise,     k_ij rounded normal with that mean and deviation d_j rho_i

m1 and m2 are the predictions from two covariances (regression.py). `partner` is the residual of the same unit's row in another matrix of
the layer. If a row so far resembles an earlier row, that row's residual is one more mean. The weights w and the scale rho of a row are
computed from the columns before the panel. t, m and residuals are in units of d_j / 256. docs/range-coder.md shows why decoder and encoder,
and different machines, always compute the same.
"""

# R rows, W columns, B rows of a block, P columns of a panel

from dataclasses import dataclass

import numpy as np

from ....weights import trellis
from .normal import Shapes, sixteenths
from .regression import MAX_X, ONE, WEIGHT, Moments, Pool, experts, solve

FIRST_BLOCK, LAST_BLOCK = 128, 1024
PANEL = 16
FINE = 256
SURE = 10.0  # number of columns after which a row's own weights count as much as the first guess
SURE_PARTNER = 30.0
SURE_SCALE = 30.0
SURE_COLUMN = 100.0  # number of rows, the same for the deviation of a column
SURE_REFERENCE = 10.0
ALIKE = {16: 0.9, 64: 0.4}  # after how many columns an earlier row is searched, and the share of the squares that it must explain
MEMORY = 8192  # number of earlier rows that are searched


@dataclass
class Known:
    """Statistics of earlier matrices, from which later ones are predicted."""

    pools: dict[int, Pool]  # by width
    partners: dict[tuple[int, str], np.ndarray]  # int16 (W, R), by layer and role


def blocks(rows: int) -> list[tuple[int, int]]:
    """Bounds of the blocks: each has as many rows as come before it, but at least FIRST_BLOCK and at most LAST_BLOCK."""
    out, start = [], 0
    while start < rows:
        size = min(max(FIRST_BLOCK, start), LAST_BLOCK, rows - start)
        out.append((start, start + size))
        start += size
    return out


def spread(rows: int) -> np.ndarray:
    """An order of the rows that spreads early rows over the whole matrix: by the reversed bits of their index."""
    bits = max(rows - 1, 0).bit_length()
    index, key = np.arange(rows), np.zeros(rows, np.int64)
    for bit in range(bits):
        key |= (index >> bit & 1) << (bits - 1 - bit)
    return np.argsort(key)


def code(
    stream,
    shape: tuple[int, int],
    unit_W: np.ndarray,
    pool: Pool,
    role: str,
    partner_WR: np.ndarray | None,
    values_WR: np.ndarray | None,
    states: int = 0,
) -> tuple[np.ndarray, Moments, np.ndarray]:
    """Code the matrix, or decode it if `values_WR` is None. Returns its values, its moments, and its residuals in 1/256 of a deviation.

    `unit_W` is the size of a step in each column, in units of x; all arrays have the columns first. `states`: of a trellis that
    runs along each row, whose integer k stands for the level k + z0 / 2, where z0 is known from the columns before; 0: none."""
    rows, width = shape
    order_R = spread(rows)
    out_WR, left_WR = np.empty((width, rows), np.int64), np.empty((width, rows), np.int16)
    moments, rho = Moments(width), 1.0
    seen, square_W = 0, np.zeros(width)
    earlier_WN = np.empty((width, 0))
    for a, b in blocks(rows):
        index_B = order_R[a:b]
        lowers, deviation_W = experts(moments, pool, role)
        deviation_W *= np.sqrt((square_W / FINE**2 + SURE_COLUMN) / (seen + SURE_COLUMN))
        partner_WB = None if partner_WR is None else partner_WR[:, index_B]
        block = _Block(stream, unit_W, lowers, deviation_W, rho, b - a, partner_WB, earlier_WN, states)
        for first in range(0, width, PANEL):
            block.panel(first, min(first + PANEL, width), None if values_WR is None else values_WR[:, index_B])
        out_WR[:, index_B] = block.values_WB
        scale_B = (SURE_SCALE * rho + block.square_B) / (SURE_SCALE + width)
        left_WB = _near(np.rint(block.left_WB / np.sqrt(scale_B)), MAX_X - 1)
        left_WR[:, index_B] = left_WB
        square_W += (left_WB * left_WB).sum(axis=1)
        earlier_WN = np.concatenate([earlier_WN, left_WB], axis=1)[:, -MEMORY:]
        seen += b - a
        rho = float(np.sort(scale_B)[len(scale_B) // 2])
        moments.add(block.x_WB, np.clip(np.rint(WEIGHT * rho / scale_B), 1, 4 * WEIGHT))
    return out_WR, moments, left_WR


class _Block:
    """One block of rows that is being coded or decoded."""

    def __init__(self, stream, unit_W, lowers, deviation_W, rho, rows, partner_WB, earlier_WN, states):
        self.stream, self.unit_W, self.lowers, self.earlier_WN = stream, unit_W, lowers, earlier_WN
        width = len(unit_W)
        self.fine_W = FINE / deviation_W
        self.step_W = deviation_W / (FINE * unit_W)  # 1/256 of a deviation, in codes
        self.class_W = sixteenths((deviation_W / unit_W) ** 2) + 48
        self.values_WB, self.target_WB, self.left_WB = np.empty((width, rows), np.int64), np.empty((width, rows)), np.empty((width, rows))
        self.x_WB, self.square_B, self.prior_square = np.empty((width, rows)), np.zeros(rows), SURE_SCALE * rho
        self.e = [np.zeros((width, rows)) for _ in lowers]
        self.means, self.normal, self.target = [], [], []
        self.path, self.state_B = trellis.transitions(states) if states else None, np.zeros(rows, np.uint8)
        for guess in [1.0] + [0.0] * (len(lowers) - 1):
            self._add(np.empty((width, rows)), 0, SURE, guess)
        if partner_WB is not None:
            self._add(partner_WB.astype(np.float64), 0, SURE_PARTNER, 0.0)

    def _add(self, mean_WB: np.ndarray, known: int, sure: float, guess: float) -> None:
        """Add a mean to the regression; `known` columns of it and of the target are there already."""
        self.means.append(mean_WB)
        self.normal.append([np.zeros_like(self.square_B) for _ in self.means])
        self.target.append(np.full_like(self.square_B, sure * guess))
        self.normal[-1][-1] += sure
        self._learn(0, known, len(self.means) - 1)

    def _learn(self, a: int, b: int, first: int) -> None:
        """Add columns a to b of the means from `first` on to the sums. These are sums of integers, so their order does not matter."""
        for i in range(first, len(self.means)):
            mean_PB = self.means[i][a:b]
            self.target[i] += (mean_PB * self.target_WB[a:b]).sum(axis=0) / FINE**2
            for j in range(i + 1):
                self.normal[i][j] += (mean_PB * self.means[j][a:b]).sum(axis=0) / FINE**2

    def _refer(self, a: int, least: float) -> None:
        """Give each row that resembles an earlier row so far that row's residual as one more mean."""
        left_BA, earlier_AN = self.left_WB[:a].T, self.earlier_WN[:a]
        score_BN = (left_BA @ earlier_AN) ** 2 / ((earlier_AN * earlier_AN).sum(axis=0) + 1)
        best_B = score_BN.argmax(axis=1)
        alike_B = score_BN[np.arange(len(best_B)), best_B] > least * (left_BA * left_BA).sum(axis=1)
        if alike_B.any():
            self._add(self.earlier_WN[:, best_B] * alike_B, a, SURE_REFERENCE, 0.0)
            guess_AB = 0.0
            for weight, mean_WB in zip(solve(self.normal, self.target), self.means, strict=True):
                guess_AB = guess_AB + weight * mean_WB[:a]
            left_AB = _near(np.rint(self.target_WB[:a] - guess_AB), MAX_X)
            square_B = (left_AB * left_AB).sum(axis=0) / FINE**2
            self.square_B = np.where(alike_B, square_B, self.square_B)
            self.prior_square = np.where(alike_B, square_B * (SURE_SCALE / a), self.prior_square)

    def panel(self, a: int, b: int, known_WB: np.ndarray | None) -> None:
        """Code columns a to b, or decode them if `known_WB` is None."""
        if a in ALIKE and self.earlier_WN.shape[1]:
            self._refer(a, ALIKE[a])
        sums = [lower[a:b, :a] @ e[:a] for lower, e in zip(self.lowers, self.e, strict=True)]
        weights = solve(self.normal, self.target)
        scale_B = (self.prior_square + self.square_B) / (SURE_SCALE + a)
        shapes = Shapes((sixteenths(scale_B) + self.class_W[a:b, None] + 1) >> 1)
        for p, j in enumerate(range(a, b)):
            mus = [np.rint(total[p] * (1 / ONE)) for total in sums]
            for mean_WB, mu in zip(self.means, mus, strict=False):
                mean_WB[j] = _near(np.rint(mu * self.fine_W[j]), MAX_X)
            guess = weights[0] * self.means[0][j]
            for weight, mean_WB in zip(weights[1:], self.means[1:], strict=True):
                guess = guess + weight * mean_WB[j]
            half_B = (self.state_B & 1) / 2
            value = shapes.code(self.stream, p, _near(guess * self.step_W[j] - half_B, 1 << 31), None if known_WB is None else known_WB[j])
            x = _near(np.rint((value + half_B) * self.unit_W[j]), MAX_X)
            if self.path is not None:
                self.state_B = self.path[self.state_B, value & 1]
            for lower, e, total, mu in zip(self.lowers, self.e, sums, mus, strict=True):
                rest = e[j] = _near(x - mu, 2 * MAX_X)
                if j + 1 < b:
                    total[p + 1 :] += lower[j + 1 : b, j, None] * rest
            self.values_WB[j], self.x_WB[j], self.target_WB[j] = value, x, _near(np.rint(x * self.fine_W[j]), MAX_X)
            self.left_WB[j] = _near(np.rint(self.target_WB[j] - guess), MAX_X)
        self._learn(a, b, 0)
        self.square_B += (self.left_WB[a:b] * self.left_WB[a:b]).sum(axis=0) / FINE**2


def _near(x: np.ndarray, limit: float) -> np.ndarray:
    x = np.maximum(x, -limit)
    return np.minimum(x, limit, out=x)
