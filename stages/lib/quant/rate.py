"""The number of bits that an adaptive entropy coder needs for quantized matrices, computed without coding them.

The expected variance v_ij of a level is that of its column in the rows above, times a factor for its row. The factor is 1, the row's step,
or a class of the row that is stored with it, whichever is cheapest. The variance gives the weight's class, a sixth of an octave wide. Each
class (with a trellis, each class and parity z0) has one adaptive histogram for all matrices together:

    bits = Σ over classes of -log2 of Π Γ(n_k + a P_k) / Γ(a P_k) · Γ(a) / Γ(n + a)

n_k is the count of code k. a P_k is the initial content of the histogram: `PRIOR` observations spread like a Gaussian of the class's width.
This is the exact length of such a code, whatever the order of the weights in a class. Escapes beyond ±`ESCAPE` cost an Elias gamma code
each. The coder that ships may also predict columns from each other, and then needs less.
"""

# M rows, K columns

import math
from dataclasses import dataclass

import numpy as np

from stages.runtime.weights import trellis

CLASSES_PER_OCTAVE = 6
CLASSES = 96  # classes of the standard deviation, from 2^-4 steps upwards
ROW_CLASSES_PER_OCTAVE = 4
ESCAPE = 128
SYMBOLS = 2 * ESCAPE + 2  # the last one announces an escape
PRIOR = 24.0  # observations
START = 4.0  # number of rows that the initial expected variance counts as
FLAT = 0.01  # share of the prior that is uniform, for the tails


@dataclass(frozen=True)
class Rate:
    """By name of the matrix: bits of its codes, bits of everything else that it needs, and its number of weights."""

    codes: dict[str, float]
    sides: dict[str, float]
    weights: dict[str, int]

    @property
    def bits(self) -> float:
        return sum(self.codes.values()) + sum(self.sides.values())

    @property
    def bits_per_weight(self) -> float:
        return self.bits / sum(self.weights.values())


def estimate(matrices: dict[str, dict[str, np.ndarray]], schemes: dict[str, dict]) -> Rate:
    """The Rate of quantized matrices, given by name; their arrays are by suffix, as in runtime/weights/dequantize.py."""
    counts, extras = {}, {}
    for name, arrays in matrices.items():
        counts[name], extras[name] = _histograms(arrays, schemes.get(name, {}).get("trellis", 0))
    total = sum(counts.values())
    bits, prices = _adaptive_bits(total)
    shares = {name: float((found * prices).sum()) for name, found in counts.items()}
    scale = bits / max(sum(shares.values()), 1e-9)
    return Rate(
        {name: share * scale + extras[name] for name, share in shares.items()},
        {name: sum(side_bits(suffix, array) for suffix, array in arrays.items()) for name, arrays in matrices.items()},
        {name: arrays["codes"].size for name, arrays in matrices.items()},
    )


def side_bits(suffix: str, array: np.ndarray) -> float:
    """Bits of an array other than codes. Small integers have an adaptive histogram of their own, and so have float16 numbers of which
    there are few different ones; other arrays are stored as they are."""
    if suffix == "codes":
        return 0.0
    if array.dtype == np.float16:
        values, places = np.unique(array.view(np.uint16), return_inverse=True)
        return min(8.0 * array.nbytes, 16.0 * values.size + _order_0_bits(places))
    return _order_0_bits(array) if array.dtype == np.int8 else 8.0 * array.nbytes


def _histograms(arrays: dict[str, np.ndarray], states: int) -> tuple[np.ndarray, float]:
    """Counts (CLASSES, 2, SYMBOLS) by class, parity and code, and the bits that are no histogram's: escapes, row classes."""
    codes_MK = arrays["codes"]
    parity_MK = trellis.parities(codes_MK, states) if states else np.zeros(codes_MK.shape, np.uint8)
    level_MK = codes_MK.astype(np.float32) + np.float32(0.5) * parity_MK
    column_steps = arrays.get("column_steps", np.zeros(codes_MK.shape[1], np.int8)).astype(np.float32)
    variance_MK, row_bits = _variances(level_MK, column_steps, arrays.get("row_steps"))
    classes_MK = np.clip((np.log2(variance_MK) * (CLASSES_PER_OCTAVE / 2) + 4 * CLASSES_PER_OCTAVE), 0, CLASSES - 1).astype(np.int32)
    large_MK = np.abs(codes_MK.astype(np.int32)) > ESCAPE
    symbol_MK = np.where(large_MK, SYMBOLS - 1, codes_MK.astype(np.int32) + ESCAPE)
    counts = np.bincount(((classes_MK * 2 + parity_MK) * SYMBOLS + symbol_MK).ravel(), minlength=CLASSES * 2 * SYMBOLS)
    excess = np.abs(codes_MK[large_MK].astype(np.float64)) - ESCAPE
    return counts.reshape(CLASSES, 2, SYMBOLS), row_bits + float((2 * np.floor(np.log2(excess)) + 2).sum())


def _variances(level_MK: np.ndarray, column_steps_K: np.ndarray, row_steps_M: np.ndarray | None) -> tuple[np.ndarray, float]:
    """What the coder expects of level², float32 (M, K), before it sees the row, and the bits that row classes cost."""
    square_MK = level_MK * level_MK
    column_K = np.exp2(-column_steps_K / 4)
    candidates = [(np.zeros(len(level_MK), np.float32), 0.0)]
    if row_steps_M is not None:
        candidates.append((-row_steps_M.astype(np.float32) / 4, 0.0))
    row_octaves = np.log2((square_MK / np.maximum(square_MK.mean(axis=0), 1e-6)).mean(axis=1) + 1e-6) / 2
    classes = np.round(row_octaves * ROW_CLASSES_PER_OCTAVE).clip(-127, 127).astype(np.int8)
    candidates.append((classes.astype(np.float32) * (2 / ROW_CLASSES_PER_OCTAVE), _order_0_bits(classes)))
    best = None
    for row_octaves_M, bits in candidates:
        variance_MK = _running(square_MK, np.exp2(row_octaves_M)[:, None].astype(np.float32), column_K.astype(np.float32))
        nats_MK = np.log(variance_MK) + square_MK / variance_MK
        gaussian = 0.5 / math.log(2) * float(nats_MK.sum(dtype=np.float64)) + bits
        if best is None or gaussian < best[0]:
            best = gaussian, variance_MK, bits
    return best[1], best[2]


def _running(square_MK: np.ndarray, row_M1: np.ndarray, column_K: np.ndarray) -> np.ndarray:
    """Row factor times the mean of level² / row factor in the rows above, which starts from the whole matrix's mean; never below what
    rounding alone makes."""
    normal_MK = square_MK / row_M1
    start_K = column_K * ((normal_MK / column_K).mean() + 1e-6)
    above_MK = np.cumsum(normal_MK, axis=0) - normal_MK
    rows_M1 = np.arange(len(square_MK), dtype=np.float32)[:, None]
    return np.maximum((above_MK + START * start_K) / (rows_M1 + START) * row_M1, np.float32(1 / 64))


def _adaptive_bits(counts: np.ndarray) -> tuple[float, np.ndarray]:
    """Bits of all classes' adaptive codes, and the price in bits of each code once all is known, to share them out."""
    prior = PRIOR * _gaussian_cells()
    used, start = counts.sum(axis=2) > 0, prior.sum(axis=2)
    bits = _log_gamma(start + counts.sum(axis=2)) - _log_gamma(start) - (_log_gamma(counts + prior) - _log_gamma(prior)).sum(axis=2)
    posterior = (counts + prior) / (counts + prior).sum(axis=2, keepdims=True)
    return float(bits[used].sum() / math.log(2)), -np.log2(posterior)


def _gaussian_cells() -> np.ndarray:
    """Probabilities (CLASSES, 2, SYMBOLS) of codes by class and parity: cells one step wide around k + z0/2."""
    sigma = np.exp2((np.arange(CLASSES) + 0.5) / CLASSES_PER_OCTAVE - 4)[:, None, None]
    edge = np.arange(-ESCAPE, ESCAPE + 2)[None, None, :] - 0.5 + np.array([0.0, 0.5])[None, :, None]
    below = np.vectorize(math.erf)(edge / sigma / math.sqrt(2))
    cells = np.concatenate((np.diff(below, axis=2) / 2, np.zeros((CLASSES, 2, 1))), axis=2)
    return (1 - FLAT) * cells + FLAT / SYMBOLS


def _log_gamma(values: np.ndarray) -> np.ndarray:
    """ln Γ for positive arrays: Stirling's series, moved up by eight to where it is exact to 1e-12."""
    shifted = values + 8
    shift = sum(np.log(values + step) for step in range(8))
    inverse = 1 / shifted
    series = inverse / 12 - inverse**3 / 360 + inverse**5 / 1260 - inverse**7 / 1680
    return (shifted - 0.5) * np.log(shifted) - shifted + 0.5 * math.log(2 * math.pi) + series - shift


def _order_0_bits(values: np.ndarray) -> float:
    """Small integers by an adaptive histogram over the range that they use, and 16 bits for the range."""
    if not values.size:
        return 0.0
    counts = np.bincount(values.ravel().astype(np.int64) - int(values.min()))
    prior = np.full(len(counts), 0.5)
    nats = (
        _log_gamma(np.array(counts.sum() + prior.sum()))
        - _log_gamma(np.array(prior.sum()))
        - (_log_gamma(counts + prior) - _log_gamma(prior)).sum()
    )
    return 16.0 + float(nats) / math.log(2)
