"""Predict the next rows from those before: covariances of columns, and the prediction of each column from the columns before it.

    S = (sum of rows' products + prior) / count = L D L';     column j of a row:  mu_j = sum_{i<j} L_ji e_i,  e_i = x_i - mu_i

The result has the same bits on every machine. Long sums are matrix products of integers below 2^53 in float64, exact in any order;
all else is one correctly rounded operation per element. L is rounded to integers before it is used, also inside the factorisation.
"""

# R rows, W columns, P columns of a panel

from math import fsum

import numpy as np

UNIT = 1024  # x of a typical row
MAX_X = 1 << 15
ONE = 1 << 16  # 1 in L
MAX_L = 1 << 21
PANEL = 32
DIAGONAL = 2.0**24  # 1 in the factorisation
WEIGHT = 16  # weight of a typical row
MAX_WIDTH = 2048
COLUMN_PRIOR, RIDGE, POOL, POOL_RIDGE = 50, 500, 400, 1000  # numbers of pseudo-rows, chosen on MiniLM: docs/log.md


class Moments:
    """Weighted sum of x x' over rows, in units of UNIT^2 WEIGHT."""

    def __init__(self, width: int):
        self.count, self.sum_WW = 0.0, np.zeros((width, width))

    def add(self, x_WR: np.ndarray, weights_R: np.ndarray) -> None:
        """Add at most 4096 rows. x are integers up to +-MAX_X, weights are integers up to 64."""
        self.sum_WW += (x_WR * weights_R) @ x_WR.T
        self.count += float(weights_R.sum()) / WEIGHT

    def variances(self) -> np.ndarray:
        """The variance of each column, shrunk toward the mean of all."""
        diagonal_W = np.diagonal(self.sum_WW) / (UNIT * UNIT * WEIGHT)
        mean = fsum(diagonal_W) / len(diagonal_W) / self.count if self.count else 1.0
        return (diagonal_W + COLUMN_PRIOR * (mean + 2.0**-20)) / (self.count + COLUMN_PRIOR)

    def correlations(self) -> np.ndarray:
        """The sum of the rows' products divided by the standard deviations; the diagonal is nearly `count`."""
        scale_W = 1 / np.sqrt(self.variances())
        return self.sum_WW * (scale_W / (UNIT * UNIT * WEIGHT))[:, None] * scale_W


class Pool:
    """Correlations of the matrices of one width that were coded before, summed over all and by role."""

    def __init__(self, width: int):
        self.count, self.sum_WW, self.roles, self.expert = 0.0, np.zeros((width, width)), {}, None

    def add(self, role: str, moments: Moments) -> None:
        correlations_WW = moments.correlations()
        count, sum_WW = self.roles.get(role, (0.0, 0.0))
        self.roles[role] = count + moments.count, sum_WW + correlations_WW
        self.count, self.sum_WW, self.expert = self.count + moments.count, self.sum_WW + correlations_WW, None

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """L and D of the pool alone."""
        if self.expert is None:
            self.expert = factor(_with_ridge(self.sum_WW, self.count, POOL_RIDGE))
        return self.expert


def experts(moments: Moments, pool: Pool, role: str) -> tuple[list[np.ndarray], np.ndarray]:
    """L of the matrix's own moments with the pool as prior, then L of the pool alone; and the deviations of the first, in units of x."""
    deviations_W = np.sqrt(moments.variances())
    if not moments.count and not pool.count:
        return [np.zeros_like(moments.sum_WW)], deviations_W * UNIT
    sum_WW, count = moments.correlations(), moments.count
    for known, prior_WW in ((pool.count, pool.sum_WW), pool.roles.get(role, (0.0, 0.0))):
        if known:
            sum_WW = sum_WW + prior_WW * (min(known, POOL) / known)
            count += min(known, POOL)
    lower_WW, variance_W = factor(_with_ridge(sum_WW, count, RIDGE))
    found = [lower_WW] + ([pool.factors()[0]] if pool.count else [])
    ratio_WW = deviations_W[:, None] / deviations_W
    return [np.clip(np.rint(lower * ratio_WW), -MAX_L, MAX_L) for lower in found], np.sqrt(variance_W) * deviations_W * UNIT


def _with_ridge(sum_WW: np.ndarray, count: float, ridge: float) -> np.ndarray:
    out = sum_WW / (count + ridge)
    out.flat[:: len(out) + 1] += ridge / (count + ridge)
    return out


def factor(s_WW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L (integers, ONE is 1, zeros on the diagonal) and D (float64) of a positive definite matrix with about 1 on the diagonal."""
    s_WW = np.rint(np.clip(s_WW, -4, 4) * DIAGONAL)
    width = len(s_WW)
    lower_WW, variance_W = np.zeros_like(s_WW), np.empty(width)
    for a in range(0, width, PANEL):
        b = min(a + PANEL, width)
        strip = s_WW[a:, a:b].copy()
        for j in range(b - a):
            pivot = variance_W[a + j] = max(strip[j, j], DIAGONAL / 1024)  # rounding must not make the pivot too small
            column = lower_WW[a + j + 1 :, a + j] = np.clip(np.rint(strip[j + 1 :, j] * (ONE / pivot)), -MAX_L, MAX_L)
            strip[j + 1 :, j + 1 :] -= column[:, None] * (strip[j + 1 : b - a, j] / ONE)
        panel_PW = np.rint(np.clip(strip[b - a :], -4 * DIAGONAL, 4 * DIAGONAL)).T
        s_WW[b:, b:] -= np.rint((lower_WW[b:, a:b] @ panel_PW) / ONE)
    return lower_WW, variance_W / DIAGONAL


def solve(a: list[list[np.ndarray]], g: list[np.ndarray]) -> list[np.ndarray]:
    """Solve a x = g by elimination for many small symmetric positive definite systems at once. `a` is the lower half of the matrices."""
    size = len(g)
    a, g = [[row[j] if j <= i else a[j][i] for j in range(size)] for i, row in enumerate(a)], list(g)
    for k in range(size):
        for i in range(k + 1, size):
            ratio = a[i][k] / a[k][k]
            for j in range(k + 1, size):
                a[i][j] = a[i][j] - ratio * a[k][j]
            g[i] = g[i] - ratio * g[k]
    for k in reversed(range(size)):
        for j in range(k + 1, size):
            g[k] = g[k] - a[k][j] * g[j]
        g[k] = g[k] / a[k][k]
    return g
