"""Whether a score beats a record by more than chance: one-sided t-tests over training seeds.

One sample, the record a number:    t = (m - (r - margin)) sqrt(n) / s,                          n - 1 degrees of freedom
Welch, the record a sample too:     t = (m - (r - margin)) / sqrt(s²/n + s_r²/n_r),
                                    degrees (s²/n + s_r²/n_r)² / ((s²/n)²/(n - 1) + (s_r²/n_r)²/(n_r - 1))

m is the mean and s the standard deviation (divisor n - 1) of n scores; lower is better. p = P(T < t): how likely scores this low are if the
true mean is only record - margin. The contest asks for p < 0.01 at a margin of 0.005 nats per token (between runs of one tokenizer; else
compare bits per byte). One seed has no standard deviation, so p is None and no conclusion is possible. Source of P(T < t): continued
fraction of the incomplete beta function, DLMF 8.17.22.
"""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN_NATS = 0.005  # per token: README of parameter-golf, "records must beat the existing SOTA by at least 0.005 nats"
LEVEL = 0.01  # the same sentence: "at p < 0.01"


@dataclass(frozen=True)
class Significance:
    """The result of one test. `gain` is record minus mean, in the unit of the scores. t, degrees and p are None for samples of one."""

    mean: float
    deviation: float | None
    count: int
    gain: float
    margin: float
    t: float | None
    degrees: float | None
    p: float | None

    @property
    def sentence(self) -> str:
        """The conclusion of the test, in one sentence."""
        if self.p is None:
            return "one seed: nothing can be said about significance; train the same configuration with two more seeds"
        word = "significant" if self.p < LEVEL else "not significant"
        return (
            f"{word} at {LEVEL}: mean {self.mean:.6f}, gain {self.gain:.6f} against a margin of {self.margin:.6f}, "
            f"t = {self.t:.2f} with {self.degrees:.2f} degrees of freedom, one-sided p = {self.p:.2g}"
        )


def one_sample(values: Sequence[float], record: float, margin: float) -> Significance:
    """Test whether `values` (one score per seed, lower is better) are below record - margin. The record's own spread is not known."""
    mean, deviation, count = _described(values)
    return _tested(mean, deviation, count, record - mean, margin, (deviation or 0.0) ** 2 / count, count - 1 if count > 1 else None)


def welch(values: Sequence[float], record: Sequence[float], margin: float) -> Significance:
    """The same test against the scores of the record's own seeds. The samples may differ in size and spread."""
    mean, deviation, count = _described(values)
    record_mean, record_deviation, record_count = _described(record)
    if deviation is None or record_deviation is None:
        return _tested(mean, deviation, count, record_mean - mean, margin, 0.0, None)
    ours, theirs = deviation**2 / count, record_deviation**2 / record_count
    spread = ours**2 / (count - 1) + theirs**2 / (record_count - 1)
    degrees = (ours + theirs) ** 2 / spread if spread else float(count + record_count - 2)
    return _tested(mean, deviation, count, record_mean - mean, margin, ours + theirs, degrees)


def student_below(t: float, degrees: float) -> float:
    """P(T < t) of Student's t: half the regularized incomplete beta function at degrees / (degrees + t²), for t <= 0."""
    if degrees <= 0 or math.isnan(t):
        raise ValueError(f"Student's t takes a number and more than 0 degrees of freedom, not {t} and {degrees}")
    if math.isinf(t):
        return 0.0 if t < 0 else 1.0
    tail = _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return tail if t <= 0 else 1 - tail


@functools.cache
def student_above(degrees: float, level: float) -> float:
    """The t that Student's t exceeds with probability `level`, between 0 and 1/2, by bisection."""
    low, high = 0.0, 1000.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if student_below(-middle, min(degrees, 1e9)) > level else (low, middle)
    return high


def _described(values: Sequence[float]) -> tuple[float, float | None, int]:
    values = [float(value) for value in values]
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a test over seeds takes one finite score per seed, not {values}")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def _tested(
    mean: float, deviation: float | None, count: int, gain: float, margin: float, variance: float, degrees: float | None
) -> Significance:
    if not math.isfinite(gain) or not 0 <= margin < math.inf:
        raise ValueError(f"a test takes a finite record and a margin of 0 or more; gain {gain}, margin {margin}")
    if degrees is None:
        return Significance(mean, deviation, count, gain, margin, None, None, None)
    excess = margin - gain  # above 0 if the gain is below the margin
    t = excess / math.sqrt(variance) if variance else math.copysign(math.inf, excess) if excess else 0.0
    return Significance(mean, deviation, count, gain, margin, t, float(degrees), student_below(t, degrees))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularized I_x(a, b) for 0 <= x <= 1: the fraction converges fast below (a + 1)/(a + b + 2), above it I_x(a, b) is
    1 - I_{1-x}(b, a)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    value = 0.0
    for m in range(200, 0, -1):  # from the inside out; 200 terms are far more than double precision needs here
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = even / (1 + odd / (1 + value))
    return front / (1 - (a + b) / (a + 1) * x / (1 + value))
