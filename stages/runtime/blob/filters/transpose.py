"""Transpose a matrix: all rows of column 0 first. Neighbours then have the scale of one column, which helps codecs that model contexts.

It saves 0.4 % for brotli on MiniLM's codes, and 0.8 to 3 % where columns differ in scale (#1855's container).
"""

import numpy as np

ON_ARRAYS = True
EXTRA = ()


def stored_shape(shape: tuple[int, int]) -> tuple[int, int]:
    return shape[::-1]


def forward(array_MK: np.ndarray) -> tuple[np.ndarray, dict]:
    return np.ascontiguousarray(array_MK.T), {}


def inverse(array_KM: np.ndarray, extra: dict) -> np.ndarray:
    return np.ascontiguousarray(array_KM.T)
