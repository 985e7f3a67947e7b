"""The order-0 entropy of integers: the lower limit for every coder that knows only how often each value occurs."""

import math

import numpy as np


def bits(codes: np.ndarray) -> float:
    """Σ over the array of -log2 of its own empirical frequencies, in bits: n log2 n - Σ_a n_a log2 n_a. An empty array has 0 bits."""
    counts = np.unique(codes, return_counts=True)[1].astype(np.float64)
    return float((counts * (math.log2(max(1, codes.size)) - np.log2(counts))).sum())
