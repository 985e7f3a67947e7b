"""The most bits that a text can really cost, from a claim and a random sample of positions: the number X of a certificate.

    c_t   nats that the artifact claims for target t, fixed before any position is drawn
    r_t   nats that it really needs, replayed with the target withheld; known only at the drawn positions
    both with a floor under every distribution:   p' = (1 - e) p + e / V,   so 0 <= c_t, r_t <= B = ln(V / e)
    positions   n, drawn with replacement, with probabilities (B - c_t) / Z,   Z = sum over all targets of (B - c_t)
    u_i = (r - c) / (B - c) at the i-th position;   at most 1;   its mean is (sum r - sum c) / Z
    m   the smallest number with  sum_j w_j prod_i (1 - l_j + l_j (1 - u_i) / (1 - m)) >= 1 / a      a = 0.01
    X   = (sum c + Z m) / ln 2 + 64 bits for the number of targets

Each product, for the true mean m, is a game in which nobody can win on average, so it reaches 1/a with probability a at most (Ville 1939;
Waudby-Smith and Ramdas 2024). l = 1 is best if nothing differs, where m = 1 - (a w)^(1/n), about 4.7/n; the smaller l serve other samples.
With e = 1/n·ln(1/a), the floor costs as much as the sample leaves open. No tolerance enters: batch against stream differs by rounding, and
the differences themselves are in u.
"""

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.01
LENGTH_BITS = 64
STAKES = {1.0: 0.9, 0.5: 0.05, 0.1: 0.03, 0.02: 0.02}  # l and their weights


@dataclass(frozen=True)
class Floor:
    """The floor for n positions and a vocabulary of V tokens."""

    share: float
    most_nats: float

    def under(self, nats: np.ndarray) -> np.ndarray:
        """The nats with the floor under the distribution."""
        return -np.logaddexp(math.log1p(-self.share) - nats, -self.most_nats)


def floor(count: int, vocabulary: int) -> Floor:
    """The floor that suits `count` positions."""
    share = min(0.5, -math.log(LEVEL) / max(count, 1))
    return Floor(share, math.log(vocabulary / share))


def enough(claims: np.ndarray, vocabulary: int, nats: float, *, most: int) -> int:
    """How many positions leave about `nats` open over all targets if nothing differs; between a fifth of `most` and `most`."""
    lid = floor(most, vocabulary)
    open_to_one = float((lid.most_nats - lid.under(claims) + 1).sum())  # the 1: what the floor costs
    wanted = -math.log(LEVEL * STAKES[1.0]) * open_to_one / nats
    return min(most, max(most // 5, math.ceil(min(wanted, most))))


def draw(claimed: np.ndarray, lid: Floor, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` target numbers (from 1), in proportion to what could be gained there; `claimed` has the floor already."""
    room = np.cumsum(lid.most_nats - claimed)
    return np.searchsorted(room, generator.random(count) * room[-1], side="right").clip(max=len(claimed) - 1) + 1


def most_nats(claimed: np.ndarray, lid: Floor, drawn: np.ndarray, replayed: np.ndarray) -> float:
    """The upper limit of the sum over all targets, with confidence 1 - LEVEL, or more. `replayed` belongs to the targets `drawn`."""
    room = lid.most_nats - claimed
    share = (replayed - claimed[drawn - 1]) / room[drawn - 1]
    return float(claimed.sum() + room.sum() * mean_limit(share))


def mean_limit(values: np.ndarray) -> float:
    """The upper limit of the mean of what `values` (at most 1 each) were drawn from."""
    low, high = 0.0, 1.0 - 1e-12
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (low, middle) if _capital(values, middle) >= -math.log(LEVEL) else (middle, high)
    return high


def _capital(values: np.ndarray, mean: float) -> float:
    """The logarithm of the weighted sum of products."""
    gains = (1 - np.minimum(values, 1.0)) / (1 - mean)
    with np.errstate(divide="ignore"):
        logs = [math.log(weight) + float(np.log(1 - stake + stake * gains).sum()) for stake, weight in STAKES.items()]
    return float(np.logaddexp.reduce(logs))
