"""One static histogram per matrix, coded by ANS (asymmetric numeral systems): within 0.1 % of the order-0 entropy, tables included.

    blob   = frame of packing.py: the number of codes and the heads, matrix after matrix, and the words of one ANS stream
    head   = 0, packed codes                                      short or random matrices
           | 1 low count e, count + e u16 frequencies, escapes    symbol s < count is the code low + s; symbol count is an escape

Numbers are packing.py's integers. `e` is 1 if some codes are outside the `count` <= 4096 values from `low`; `escapes` is then the number of
these codes, followed by the codes, packed, in the order in which they occur. Frequencies are scaled to at most 65535. The stream is
constriction's AnsCoder with the model Categorical(frequencies in float32, perfect=False); matrices are decoded in order.
Source: parameter-golf #1123, #1649 (per-tensor ANS); the library: Bamler, arXiv:2201.01741.
"""

import numpy as np

from ..codecs import CodecError, MissingProgram
from ..packing import Reader, Writer, frame, unframe
from . import MatrixContext

PROGRAM = None
PACKAGE = "constriction"
PACKED, HISTOGRAM = 0, 1
MAX_SYMBOLS = 4096
MAX_TABLE_BYTES = 2 * MAX_SYMBOLS + 128  # for one matrix, in addition to its packed codes
TOP = 65535


def encode(codes: list[np.ndarray], contexts: list[MatrixContext]) -> bytes:
    """There are no options: the counts determine everything."""
    constriction = _library()
    heads, streams = Writer(), []
    heads.integer(sum(matrix.size for matrix in codes))
    for matrix in codes:
        streams.append(_encode_head(matrix.astype(np.int64).ravel(), heads))
    coder = constriction.stream.stack.AnsCoder()
    for symbols, frequencies in [stream for stream in streams if stream][::-1]:
        coder.encode_reverse(symbols.astype(np.int32), _model(constriction, frequencies))
    return frame(heads, coder.get_compressed())


def decode(blob: bytes, contexts: list[MatrixContext]) -> list[np.ndarray]:
    constriction = _library()
    most = 16 + sum(4 * context.shape[0] * context.shape[1] + MAX_TABLE_BYTES for context in contexts)
    reader, words = unframe(blob, most=most, what="ans")
    number = sum(context.shape[0] * context.shape[1] for context in contexts)
    reader.bounded(number, number)
    try:
        coder = constriction.stream.stack.AnsCoder(words)
    except ValueError as error:
        raise CodecError(f"ans blob holds no stream ({error}); the file is damaged, make it again") from None
    out = [_decode_matrix(reader, coder, constriction, context.shape) for context in contexts]
    reader.end()
    if not coder.is_empty():
        raise CodecError("ans blob goes on after its last matrix; the file is damaged, make it again")
    return out


def _encode_head(values: np.ndarray, heads: Writer) -> tuple[np.ndarray, np.ndarray] | None:
    """Write the head of a matrix. Returns the symbols and frequencies of its stream, or None if the matrix is packed."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    width = (high - low).bit_length()
    middle = int(np.median(values)) if values.size else 0
    first = low if high - low < MAX_SYMBOLS else max(low, middle - MAX_SYMBOLS // 2)
    is_escape = (values < first) | (values >= first + MAX_SYMBOLS)
    inside = values[~is_escape] - first
    counts = np.bincount(inside) if inside.size else np.zeros(1, np.int64)
    frequencies = np.concatenate(
        (np.where(counts > 0, np.maximum(1, counts * TOP // max(1, counts.max())), 0), [1] if is_escape.any() else [])
    ).astype(np.uint16)
    used = np.append(counts, is_escape.sum())
    used = used[used > 0].astype(np.float64)
    bits = (used * np.log2(values.size / used)).sum() + 32 * is_escape.sum() + 12 * len(frequencies)
    if len(frequencies) < 2 or bits >= width * values.size:
        heads.integer(PACKED)
        heads.packed(values)
        return None
    heads.integer(HISTOGRAM)
    heads.integer(first)
    heads.integer(len(counts))
    heads.integer(int(is_escape.any()))
    heads.data += frequencies.astype("<u2").tobytes()
    if is_escape.any():
        escapes = values[is_escape]
        heads.integer(len(escapes))
        heads.packed(escapes)
    return np.where(is_escape, len(counts), values - first), frequencies


def _decode_matrix(reader: Reader, coder, constriction, shape: tuple[int, int]) -> np.ndarray:
    size = shape[0] * shape[1]
    if reader.bounded(PACKED, HISTOGRAM) == PACKED:
        return reader.packed(size).reshape(shape)
    first, count, has_escapes = reader.bounded(-(1 << 31), (1 << 31) - 1), reader.bounded(1, MAX_SYMBOLS), reader.bounded(0, 1)
    frequencies = np.frombuffer(reader.part(2 * (count + has_escapes)), "<u2")
    if len(frequencies) < 2 or not frequencies.any():
        raise CodecError("ans blob has an empty histogram; the file is damaged, make it again")
    escapes = np.zeros(0, np.int32)
    if has_escapes:
        escapes = reader.packed(reader.bounded(1, size))
    symbols = coder.decode(_model(constriction, frequencies), size) if size else np.zeros(0, np.int32)
    is_escape = symbols == count
    if is_escape.sum() != len(escapes) or first + count > 1 << 31:
        raise CodecError("ans blob has another number of escapes than declared; the file is damaged, make it again")
    symbols += np.int32(first)
    symbols[is_escape] = escapes
    return symbols.reshape(shape)


def _model(constriction, frequencies: np.ndarray):
    return constriction.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)


def _library():
    try:
        import constriction
    except ImportError:
        raise MissingProgram(PACKAGE, is_package=True) from None
    return constriction
