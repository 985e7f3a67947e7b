"""Turn integers and scales back into weights, float32, bit for bit the same on every machine.

A quantized matrix `name` of M rows and K columns is stored as arrays `name.<suffix>`:

| suffix                      | type, shape                                | meaning                                                     |
|-----------------------------|--------------------------------------------|-------------------------------------------------------------|
| codes                       | int8, int16 or int32 (M, K)                | level q, or the index of a trellis (trellis.py)             |
| scales                      | float16 (M) or (M, G); uint8 (M)           | scale of a row, or of each K/G columns of it; uint8: e4m3   |
| step                        | float32 ()                                 | one step for the matrix                                     |
| row_steps, column_steps     | int8 (M), int8 (K)                         | eighths of an octave                                        |
| left, left_scales           | int8 (M, r), float16 (1) or (M)            | low-rank correction (LQER)                                  |
| right, right_scales         | int8 (r, K), float16 (groups in a row)     | the same                                                    |

    W(i,j) = gain_j level(i,j) scale(i, group of j) step 2^((row_steps_i + column_steps_j)/8), un-rotated, + left right

An absent factor is 1 (absent steps are 0). The scheme of a matrix has the rest; an absent key means off:

    trellis: states      level is p / 2 of the trellis instead of the code
    gain: true           gain_j = max(0, 1 - d / mean_i level²): the least-squares gain of the rounding, computed from the levels alone
    unshrink: true       the scale of a group is divided by its mean |level|: ternary codes of absmean scales (#640)
    rotation: {block, seed}   W is stored as W R, R a signed Hadamard matrix per block of inputs

Any other tensor is stored as float16 under its own name.
"""

# M rows, K columns, G groups of columns, N columns of a group

import hashlib
import math

import numpy as np
import torch

from ..base.errors import ArtifactError
from ..network.config import ModelConfig
from ..network.gpt import GPT
from . import trellis

CODES = ".codes"
SUFFIXES = ("codes", "scales", "step", "row_steps", "column_steps", "left", "left_scales", "right", "right_scales")
OPTIONS = ("trellis", "gain", "unshrink", "rotation")
OCTAVE = np.array(
    [
        float.fromhex(x)
        for x in (  # 2^(n/8)
            "0x1p0",
            "0x1.172b83c7d517bp0",
            "0x1.306fe0a31b715p0",
            "0x1.4bfdad5362a27p0",
            "0x1.6a09e667f3bcdp0",
            "0x1.8ace5422aa0dbp0",
            "0x1.ae89f995ad3adp0",
            "0x1.d5818dcfba487p0",
        )
    ]
)
# Mean squared rounding error in squared steps: 1/12, and for each number of trellis states the error measured on Gaussian weights.
NOISE = {0: 1 / 12, 4: 0.265 / 4, 8: 0.2596 / 4, 16: 0.2565 / 4, 32: 0.2526 / 4}
MAX_ROTATION = 1 << 16


def weights(stored: dict[str, np.ndarray], schemes: dict[str, dict] | None = None) -> dict[str, torch.Tensor]:
    """float32 weights by parameter name; `schemes` has the schemes by matrix. ArtifactError if arrays do not fit together."""
    matrices: dict[str, dict[str, np.ndarray]] = {}
    out: dict[str, torch.Tensor | None] = {}
    for name, array in stored.items():
        base, _, suffix = name.rpartition(".")
        if suffix in SUFFIXES:
            matrices.setdefault(base, {})[suffix] = array
            out[base] = None  # keeps the place of the matrix in the order of the file
        else:
            out[name] = torch.from_numpy(array.astype(np.float32))
    schemes = schemes or {}
    for name in schemes.keys() - matrices.keys():
        raise ArtifactError(f"there is a scheme for {name}, but no such matrix; the blob is damaged, make it again")
    for name, arrays in matrices.items():
        if name in stored:
            raise ArtifactError(f"{name} is stored twice, as int8 matrix and as float16; the blob is damaged, make it again")
        try:
            out[name] = torch.from_numpy(matrix(arrays, schemes.get(name, {})))
        except ArtifactError as error:
            raise ArtifactError(f"matrix {name} {error}; the blob is damaged, make it again") from None
    return out


def matrix(arrays: dict[str, np.ndarray], scheme: dict) -> np.ndarray:
    """float32 (M, K) from the arrays of one matrix by suffix. ArtifactError, whose text continues the matrix's name."""
    check(arrays, scheme)
    codes_MK, states = arrays["codes"], scheme.get("trellis", 0)
    level_MK = trellis.half_steps(codes_MK, states) if states else codes_MK
    scale_MG = row_scales(arrays)
    if scheme.get("unshrink"):
        scale_MG = unshrunk(scale_MG, codes_MK)
    level_MGN = level_MK.reshape(*scale_MG.shape, -1).astype(np.float32)
    if states:
        level_MGN *= np.float32(0.5)
    level_MGN *= scale_MG[:, :, None]
    out_MK = level_MGN.reshape(codes_MK.shape)
    out_MK *= column_scales(level_MK, arrays, scheme)[None, :]
    if scheme.get("rotation"):
        out_MK = rotate_back(out_MK, **scheme["rotation"])
    return out_MK + low_rank(arrays) if "left" in arrays else out_MK


def row_scales(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """scale · step · 2^(row_steps/8), float32 (M, G)."""
    num_rows = arrays["codes"].shape[0]
    scales = arrays.get("scales", np.ones(num_rows, np.float32))
    if scales.dtype == np.uint8:
        scales = float8(scales)
    scale_MG = scales.reshape(num_rows, -1).astype(np.float32) * arrays.get("step", np.float32(1))
    return scale_MG * octaves(arrays.get("row_steps", np.zeros(num_rows, np.int8)))[:, None]


def column_scales(level_MK: np.ndarray, arrays: dict[str, np.ndarray], scheme: dict) -> np.ndarray:
    """gain · 2^(column_steps/8), float32 (K). `level_MK` in half steps with a trellis, in steps without."""
    gain_K = np.ones(level_MK.shape[1])
    if scheme.get("gain"):
        states = scheme.get("trellis", 0)
        gain_K = gains(square_sums(level_MK).astype(np.float64), rows=len(level_MK), states=states)
    return gain_K.astype(np.float32) * octaves(arrays.get("column_steps", np.zeros(level_MK.shape[1], np.int8)))


def square_sums(level_MK: np.ndarray) -> np.ndarray:
    """Σ_i level² by column, int64 (K), which is exact in any order."""
    wide_MK = level_MK.astype(np.int64)
    return (wide_MK * wide_MK).sum(axis=0)


def gains(square_sums_K, *, rows: int, states: int):
    """max(0, 1 - d / mean level²) (K), from float64 Σ level² in half steps with a trellis, in steps without; array or Tensor."""
    noise = NOISE[states] * (4 if states else 1) * rows
    return (1.0 - noise / square_sums_K.clip(min=1)).clip(min=0.0)


def octaves(eighths: np.ndarray) -> np.ndarray:
    """2^(n/8), float32."""
    whole, part = np.divmod(eighths.astype(np.int32), 8)
    return np.ldexp(OCTAVE[part], whole).astype(np.float32)


def unshrunk(scale_MG: np.ndarray, codes_MK: np.ndarray) -> np.ndarray:
    """Each scale divided by the mean |code| of its group; a group of zeros keeps its scale."""
    absolute_MG = np.abs(codes_MK.astype(np.int64)).reshape(*scale_MG.shape, -1)
    total_MG = absolute_MG.sum(axis=2)
    return (scale_MG * (absolute_MG.shape[2] / np.maximum(total_MG, 1).astype(np.float64))).astype(np.float32)


def float8(bits: np.ndarray) -> np.ndarray:
    """float32 from the bits of float8 e4m3 (1 sign, 4 exponent, 3 mantissa bits, bias 7, no infinity)."""
    exponent, mantissa = (bits >> 3 & 15).astype(np.int32), (bits & 7).astype(np.float32)
    value = np.where(exponent > 0, np.ldexp(8 + mantissa, exponent - 10), np.ldexp(mantissa, -9))
    return np.where(bits & 128, -value, value).astype(np.float32)


def low_rank(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """left · right, float32 (M, K), added rank by rank, because the order of sums in a matrix product depends on the machine."""
    left_MR, right_RK = (
        (
            arrays[side].reshape(arrays[f"{side}_scales"].size, -1).astype(np.float32)
            * arrays[f"{side}_scales"].astype(np.float32)[:, None]
        ).reshape(arrays[side].shape)
        for side in ("left", "right")
    )
    out_MK = np.zeros((len(left_MR), right_RK.shape[1]), np.float32)
    for rank in range(len(right_RK)):
        out_MK += left_MR[:, rank, None] * right_RK[rank]
    return out_MK


def signs(columns: int, seed: int) -> np.ndarray:
    """+1 or -1 for each column, float32 (K), from the bits of SHAKE-128 of the seed."""
    bits = np.frombuffer(hashlib.shake_128(seed.to_bytes(8, "little")).digest((columns + 7) // 8), np.uint8)
    return 1 - 2 * np.unpackbits(bits, count=columns, bitorder="little").astype(np.float32)


def rotate(weight_MK: np.ndarray, *, block: int, seed: int) -> np.ndarray:
    """W R, float32: the columns times their signs, then times a normalised Hadamard matrix in each block of `block` columns."""
    return _hadamard(weight_MK * signs(weight_MK.shape[1], seed), block)


def rotate_back(weight_MK: np.ndarray, *, block: int, seed: int) -> np.ndarray:
    """(W R) R' = W."""
    return _hadamard(weight_MK, block) * signs(weight_MK.shape[1], seed)


def _hadamard(weight_MK: np.ndarray, block: int) -> np.ndarray:
    out = weight_MK.astype(np.float32)
    width = 1
    while width < block:
        pairs = out.reshape(-1, 2, width)
        out = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), axis=1)
        width *= 2
    return out.reshape(weight_MK.shape) * np.float32(block**-0.5)


def check(arrays: dict[str, np.ndarray], scheme: dict) -> None:
    """ArtifactError, whose text continues the matrix's name, unless `matrix` can decode this."""
    codes = arrays.get("codes")
    if codes is None or codes.ndim != 2 or codes.dtype not in (np.int8, np.int16, np.int32):
        raise ArtifactError("has scales without codes, or its codes are no int8 matrix, nor int16 or int32")
    rows, columns = codes.shape
    scales = arrays.get("scales")
    if scales is None and "step" not in arrays:
        raise ArtifactError("has neither a scale for each of its rows nor a step")
    if scales is not None:
        per_row = scales.shape[1] if scales.ndim == 2 else 1
        if (
            scales.shape[:1] != (rows,)
            or scales.ndim > 2
            or not per_row
            or columns % per_row
            or scales.dtype not in (np.float16, np.uint8)
            or (scales.dtype == np.uint8 and (scales & 127 == 127).any())
        ):
            raise ArtifactError("has no scale for each of its rows, or no whole number of columns for each of them")
    left, right = arrays.get("left"), arrays.get("right")
    ranks = right.shape[0] if right is not None and right.ndim == 2 else 0
    expected = {
        "step": ((), np.float32),
        "row_steps": ((rows,), np.int8),
        "column_steps": ((columns,), np.int8),
        "left": ((rows, ranks), np.int8),
        "right": ((ranks, columns), np.int8),
    }
    for suffix, (shape, dtype) in expected.items():
        if suffix in arrays and (arrays[suffix].shape != shape or arrays[suffix].dtype != dtype):
            raise ArtifactError(f"has {suffix} of {arrays[suffix].dtype} {arrays[suffix].shape}, not of {np.dtype(dtype)} {shape}")
    if len({suffix in arrays for suffix in ("left", "left_scales", "right", "right_scales")}) > 1:
        raise ArtifactError("has only a part of a low-rank correction")
    for side in (left, right) if ranks else ():
        scales = arrays["left_scales" if side is left else "right_scales"]
        if scales.dtype != np.float16 or scales.ndim != 1 or not scales.size or side.size % scales.size:
            raise ArtifactError("has scales of its low-rank correction that do not divide it into groups")
    _check_scheme(scheme, columns)


def _check_scheme(scheme: dict, columns: int) -> None:
    if not isinstance(scheme, dict) or not set(scheme) <= set(OPTIONS):
        raise ArtifactError(f"has the scheme {str(scheme)[:80]}; a scheme takes {', '.join(OPTIONS)}")
    states, rotation = scheme.get("trellis", 0), scheme.get("rotation")
    if not _is_int(states) or states not in NOISE:
        raise ArtifactError(f"has a trellis of {str(states)[:20]} states; there are {', '.join(map(str, trellis.POLYNOMIALS))}")
    if not all(isinstance(scheme.get(option, False), bool) for option in ("gain", "unshrink")) or (states and scheme.get("unshrink")):
        raise ArtifactError("has options gain and unshrink that are not true or false, or a trellis of ternary codes")
    if not rotation:
        return
    if not isinstance(rotation, dict) or set(rotation) != {"block", "seed"} or not all(_is_int(v) for v in rotation.values()):
        raise ArtifactError("has a rotation without exactly the integers block and seed")
    block, seed = rotation["block"], rotation["seed"]
    if not 2 <= block <= MAX_ROTATION or block & (block - 1) or columns % block or not 0 <= seed < 1 << 63:
        raise ArtifactError(f"has a rotation in blocks of {block}, which must be a power of two that divides its {columns} columns")


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def build(state: dict[str, torch.Tensor], config: dict) -> GPT:
    """The model, in eval mode, with exactly these weights. ArtifactError if a name or shape is not the configuration's."""
    architecture = ModelConfig.from_dict(config)
    if architecture.num_layers > len(state):  # checked before a module is built for each layer
        raise ArtifactError(f"the configuration has {architecture.num_layers} layers, the file {len(state)} tensors; it is damaged")
    with torch.device("meta"):
        model = GPT(architecture)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, tensor in state.items():
        shape = expected.get(name, ())
        if tensor.ndim == 2 < len(shape) and tuple(tensor.shape) == (math.prod(shape[:-1]), shape[-1]):
            state = state | {name: tensor.reshape(shape)}  # a gate of several layers and heads, which is stored as one matrix
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(f"weight {name} has shape {found.get(name)}, the configuration asks for {expected.get(name)}")
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
