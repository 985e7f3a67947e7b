"""Build the `MatrixContext` of a matrix, which a coder knows before it reads the codes, from name, scheme and stored steps.

    name                                              role, layer
    embedding.*, unembedding.*                        embedding
    blocks.3.attention.query.* (key, value, output)   query, 3
    blocks.3.mlp.up.* (down), untied_mlp.up.3.*       up, 3
    <feature>.table.*                                 table
    any other matrix of a feature                     projection

    row_steps_i = round(8 log2 scale_i) + name.row_steps_i          with groups of columns: the floor of the mean
    column_steps_j = name.column_steps_j                            arrays that are not stored count as 0

Steps are in eighths of an octave and relative: a constant of the whole matrix (name.step) is left out. All is computed with integers and
comparisons, so every machine gets the same context.
"""

# M rows, K columns, G groups of columns

import re

import numpy as np

from .coders import MatrixContext

CODES = ".codes"
ATTENTION = re.compile(r"blocks\.(\d+)\.attention\.(query|key|value|output)\b")
MLP = re.compile(r"(?:blocks\.(\d+)\.mlp\.(up|down)|untied_mlp\.(up|down)\.(\d+))\b")
HALVES = np.array([2.0 ** ((2 * k + 1) / 16) for k in range(8)])  # halfway between two eighths; no float16 mantissa is close to one of them
LOWEST = -8 * 32  # used for a scale of zero: below every float16


def role(name: str) -> tuple[str, int]:
    """Role and layer (-1: not in a layer) of the matrix `name`, which comes without `.codes`."""
    if found := ATTENTION.match(name):
        return found[2], int(found[1])
    if found := MLP.match(name):
        return found[2] or found[3], int(found[1] or found[4])
    if name.startswith(("embedding", "unembedding")):
        return "embedding", -1
    if ".table." in name + ".":
        return "table", -1
    return ("other" if name.startswith("blocks.") else "projection"), -1


def context(name: str, shape: tuple[int, int], stored: dict[str, np.ndarray], scheme: dict) -> MatrixContext:
    """The context of the matrix `name`. `stored` has its other arrays; those with a wrong shape are ignored."""
    rows, columns = shape
    row_steps_M, column_steps_K = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
    scales = stored.get(name + ".scales")
    if scales is not None and scales.ndim in (1, 2) and len(scales) == rows and scales.size:
        steps = eighths(scales)
        row_steps_M += steps if steps.ndim == 1 else steps.sum(axis=1) // steps.shape[1]
    for total, word in ((row_steps_M, ".row_steps"), (column_steps_K, ".column_steps")):
        steps = stored.get(name + word)
        if steps is not None and steps.shape == total.shape:
            total += steps.astype(np.int64)
    trellis = scheme.get("trellis", 0)
    return MatrixContext(
        name, (rows, columns), *role(name), _int16(row_steps_M), _int16(column_steps_K), trellis if type(trellis) is int else 0
    )


def eighths(scales: np.ndarray) -> np.ndarray:
    """8 log2 of the scales, rounded, int64. The scales are float16, or float8 e4m3 in uint8; zero and less give `LOWEST`."""
    if scales.dtype == np.uint8:
        exponent, mantissa = (scales >> 3) & 15, (scales & 7).astype(np.float64)
        scales = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent.astype(int) - 10))
    with np.errstate(invalid="ignore"):
        mantissa, exponent = np.frexp(np.where(np.isfinite(scales), scales, 65504.0).astype(np.float64))
    steps = 8 * (exponent.astype(np.int64) - 1) + np.searchsorted(HALVES, 2 * mantissa)
    return np.where(scales > 0, steps, LOWEST)


def _int16(steps: np.ndarray) -> np.ndarray:
    return np.clip(steps, -(1 << 15), (1 << 15) - 1).astype(np.int16)
