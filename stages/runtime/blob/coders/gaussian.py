"""A Gaussian per column, coded by a range coder: 0.2 % below the order-0 entropy if columns differ in scale, at one byte per column.

    blob   = frame of packing.py: the number of codes and the heads, matrix after matrix, and the words of one range coder stream
    head   = 0, packed codes                 short or random matrices
           | 1 low span centre, K bytes s    codes of column j: Gaussian(centre, 2^((s_j - 64) / 16)) over low to low + span

Numbers are packing.py's integers. The standard deviations come from a table of 16 doubles and a power of two, so every machine has the
same. The stream is constriction's RangeEncoder with the model QuantizedGaussian(low, low + span), row after row. Its Gaussian is computed
in floating point with the machine's own exp: a machine with another exp decodes other codes, which the blob's sha256 then detects.
Source of the idea: the measurement that only columns differ in scale (docs/log.md); the library: Bamler, arXiv:2201.01741.
"""

# M rows, K columns

import numpy as np

from ..codecs import CodecError, MissingProgram
from ..packing import Reader, Writer, frame, unframe
from . import MatrixContext

PROGRAM = None
PACKAGE = "constriction"
PACKED, GAUSSIAN = 0, 1
MAX_SPAN = 1 << 16  # constriction's models have 24 bits of precision; matrices with a wider range are packed
SIXTEENTHS = np.array([round(2.0 ** (k / 16), 12) for k in range(16)])  # rounded, so that the last bit of pow does not matter
ROWS_AT_ONCE = 1 << 18  # codes, approximately: limits the memory for means and deviations, which are doubles


def encode(codes: list[np.ndarray], contexts: list[MatrixContext]) -> bytes:
    """There are no options: the columns' deviations determine everything."""
    constriction = _library()
    heads, coder = Writer(), constriction.stream.queue.RangeEncoder()
    heads.integer(sum(matrix.size for matrix in codes))
    for matrix in codes:
        values_MK = matrix.astype(np.int64)
        low, high = (int(values_MK.min()), int(values_MK.max())) if values_MK.size else (0, 0)
        width = (high - low).bit_length()
        centre = round(float(np.median(values_MK))) if values_MK.size else 0
        scale_K = _steps(values_MK - centre) if values_MK.size else np.zeros(0, np.uint8)
        if not 0 < high - low <= MAX_SPAN or _bits(values_MK - centre, scale_K) >= width * values_MK.size:
            heads.integer(PACKED)
            heads.packed(values_MK.ravel())
            continue
        for value in (GAUSSIAN, low, high - low, centre):
            heads.integer(value)
        heads.data += scale_K.tobytes()
        model = constriction.stream.model.QuantizedGaussian(low, high)
        for start, means, deviations in _rows(matrix.shape, centre, scale_K):
            coder.encode(values_MK[start : start + len(means)].astype(np.int32).ravel(), model, means.ravel(), deviations.ravel())
    return frame(heads, coder.get_compressed())


def decode(blob: bytes, contexts: list[MatrixContext]) -> list[np.ndarray]:
    constriction = _library()
    most = 16 + sum(4 * context.shape[0] * context.shape[1] + context.shape[1] + 64 for context in contexts)
    reader, words = unframe(blob, most=most, what="gaussian")
    number = sum(context.shape[0] * context.shape[1] for context in contexts)
    reader.bounded(number, number)
    coder = constriction.stream.queue.RangeDecoder(words)
    out = [_decode_matrix(reader, coder, constriction, context.shape) for context in contexts]
    reader.end()
    if not coder.maybe_exhausted():
        raise CodecError("gaussian blob goes on after its last matrix; the file is damaged, make it again")
    return out


def _steps(values_MK: np.ndarray) -> np.ndarray:
    """16 log2 of the columns' deviations, rounded, plus 64, uint8 (K)."""
    deviation_K = np.sqrt(np.square(values_MK.astype(np.float64)).mean(axis=0) + 1 / 256)
    return np.clip(np.round(16 * np.log2(deviation_K)) + 64, 0, 255).astype(np.uint8)


def _deviations(scale_K: np.ndarray) -> np.ndarray:
    steps_K = scale_K.astype(np.int64) - 64
    return np.ldexp(SIXTEENTHS[steps_K % 16], steps_K // 16)


def _bits(values_MK: np.ndarray, scale_K: np.ndarray) -> float:
    """The approximate cost of the matrix in bits."""
    deviation_K = _deviations(scale_K)
    squares_K = np.square(values_MK.astype(np.float64)).mean(axis=0) / deviation_K**2
    per_code_K = np.maximum(0.02, np.log2(deviation_K) + (np.log(2 * np.pi) + squares_K) / np.log(4))
    return float(per_code_K.sum()) * len(values_MK) + 8 * len(scale_K)


def _rows(shape: tuple[int, int], centre: int, scale_K: np.ndarray):
    """Yields (first row, means, deviations) of blocks of rows; constriction needs one mean and one deviation per code."""
    rows = max(1, ROWS_AT_ONCE // shape[1])
    deviation_K = _deviations(scale_K)
    for start in range(0, shape[0], rows):
        block = (min(rows, shape[0] - start), shape[1])
        yield start, np.full(block, float(centre)), np.broadcast_to(deviation_K, block).copy()


def _decode_matrix(reader: Reader, coder, constriction, shape: tuple[int, int]) -> np.ndarray:
    if reader.bounded(PACKED, GAUSSIAN) == PACKED:
        return reader.packed(shape[0] * shape[1]).reshape(shape)
    low = reader.bounded(-(1 << 31), (1 << 31) - 2)
    span = reader.bounded(1, min(MAX_SPAN, (1 << 31) - 1 - low))
    centre = reader.bounded(low, low + span)
    scale_K = np.frombuffer(reader.part(shape[1]), np.uint8)
    model = constriction.stream.model.QuantizedGaussian(low, low + span)
    out = np.empty(shape, np.int32)
    try:
        for start, means, deviations in _rows(shape, centre, scale_K):
            out[start : start + len(means)] = coder.decode(model, means.ravel(), deviations.ravel()).reshape(means.shape)
    except (ValueError, AssertionError) as error:
        raise CodecError(f"gaussian blob holds no stream ({error}); the file is damaged, make it again") from None
    return out


def _library():
    try:
        import constriction
    except ImportError:
        raise MissingProgram(PACKAGE, is_package=True) from None
    return constriction
