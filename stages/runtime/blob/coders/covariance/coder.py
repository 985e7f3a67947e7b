"""Covariance coder: it predicts the integers of matrices from one another and codes them by interleaved range ANS.

Matrices are turned so that the columns are the residual stream; columns.py has the model. If the model does not make a matrix smaller, the
matrix is coded with one histogram or as plain digits (histogram.py). docs/range-coder.md has the format and shows why every machine decodes
the same integers.

    blob   = u32 crc32 of the rest | u16 lanes | u32 outliers | by matrix its header | states | words | int32 outliers
    header = u8 0 | int8 scale, eighths of an octave | u8 1 if the steps of its columns are used      predicted
           | u8 1 | u16 length | histogram                                                            histogram
           | u8 2 | int32 least | u32 range                                                           digits
           | u8 3 | as 0                                 predicted, with the parity of a trellis that runs along the coder's rows
"""

import struct
import zlib

import numpy as np

from ....weights import trellis
from ...codecs import CodecError
from .. import ROLES, MatrixContext
from . import columns, histogram
from .normal import power
from .rans import Decoder, Encoder
from .regression import MAX_WIDTH, UNIT, Pool

PREDICTED, HISTOGRAM, DIGITS, PARITY = 0, 1, 2, 3
FIELDS = {PREDICTED: "<bB", HISTOGRAM: "<H", DIGITS: "<iI", PARITY: "<bB"}
PARTNER = {"key": "query", "output": "value", "down": "up"}
MAX_LANES = 1024
CODES_PER_LANE = 32768  # a lane costs four bytes, which is 0.05 % of this many codes of two bits
MANY_CODES = MAX_LANES**2  # from so many on, there is a lane for each row of a block, for 0.05 % of the bytes: half the time
PREFERENCE = 0.9995  # factor on the cost of a predicted matrix, which helps to predict later ones
INT32 = 1 << 31


def encode(codes: list[np.ndarray], contexts: list[MatrixContext]) -> bytes:
    """There are no options."""
    count = sum(context.shape[0] * context.shape[1] for context in contexts)
    stream, known, headers = Encoder(_lanes(count)), columns.Known({}, {}), []
    for index in _order(contexts):
        context, matrix = contexts[index], np.asarray(codes[index])
        if matrix.shape != context.shape or not np.issubdtype(matrix.dtype, np.integer):
            raise ValueError(
                f"matrix {context.name} has codes {matrix.dtype} {matrix.shape}; its context asks for integers {context.shape}"
            )
        headers.append(_encode(stream, matrix.astype(np.int64), context, known))
    escapes = np.concatenate([np.empty(0, np.int64), *stream.escapes])
    rest = b"".join([struct.pack("<HI", stream.lanes, len(escapes)), *headers, stream.finish(), escapes.astype("<i4").tobytes()])
    return struct.pack("<I", zlib.crc32(rest)) + rest


def decode(blob: bytes, contexts: list[MatrixContext]) -> list[np.ndarray]:
    """Raises CodecError if the blob is damaged."""
    (checksum, lanes, outliers), at = _take(blob, 0, "<IHI")
    if checksum != zlib.crc32(memoryview(blob)[4:]):
        raise CodecError("the coded matrices do not have the checksum they declare; the file is damaged, make it again")
    headers = {}
    for index in _order(contexts):
        headers[index], at = _header(blob, at, contexts[index])
    end = len(blob) - 4 * outliers
    if not 1 <= lanes <= MAX_LANES or end < at:
        raise CodecError("the header of the coded matrices is damaged; make the file again")
    stream, known = Decoder(blob[at:end], lanes, np.frombuffer(blob, "<i4", outliers, end).astype(np.int64)), columns.Known({}, {})
    out = [np.zeros(context.shape, np.int32) for context in contexts]
    for index, (kind, *fields) in headers.items():
        context = contexts[index]
        if kind in (PREDICTED, PARITY):
            matrix, keep = _predicted(stream, context, kind, *fields, known, None)
            keep()
        else:
            read = histogram.decode if kind == HISTOGRAM else histogram.decode_digits
            matrix = read(stream, context.shape[0] * context.shape[1], *fields).reshape(context.shape)
        if matrix.min() < -INT32 or matrix.max() >= INT32:
            raise CodecError(f"matrix {context.name} has codes beyond int32; the file is damaged, make it again")
        out[index][:] = matrix
    stream.close()
    return out


def _lanes(codes: int) -> int:
    least = columns.FIRST_BLOCK if codes >= MANY_CODES else 1
    return min(max(codes // CODES_PER_LANE, least), MAX_LANES)


def _order(contexts: list[MatrixContext]) -> list[int]:
    """The indices of the matrices layer by layer, each after its partner; empty matrices are left out."""
    keys = [(context.layer, ROLES.index(context.role), index) for index, context in enumerate(contexts) if min(context.shape) > 0]
    return [index for _, _, index in sorted(keys)]


def _turned(context: MatrixContext) -> bool:
    return context.role in ("output", "down") or context.shape[1] > MAX_WIDTH >= context.shape[0]


def _knows_parity(context: MatrixContext) -> bool:
    """Whether a trellis runs along the coder's rows, so that the parity of each level is known before it is coded."""
    return _turned(context) and context.trellis in trellis.POLYNOMIALS


def _encode(stream: Encoder, matrix: np.ndarray, context: MatrixContext, known: columns.Known) -> bytes:
    """Code one matrix in the cheapest way and return its header."""
    tries = [
        lambda: (bytes([HISTOGRAM]) + histogram.encode(stream, matrix.reshape(-1)), None),
        lambda: (bytes([DIGITS]) + histogram.encode_digits(stream, matrix.reshape(-1)), None),
    ]
    if context.shape[0 if _turned(context) else 1] <= MAX_WIDTH:
        tries.append(lambda: _predict(stream, matrix, context, known))
    results, mark = [], stream.mark()
    for attempt in tries:
        header, keep = attempt()
        results.append(((stream.cost(mark) + 8 * len(header)) * (PREFERENCE if keep else 1), header, keep, stream.take_back(mark)))
    _, header, keep, coded = min(results, key=lambda result: result[0])
    stream.put_back(coded)
    if keep:
        keep()
    return header


def _predict(stream: Encoder, matrix: np.ndarray, context: MatrixContext, known: columns.Known):
    """The header and the function from `_predicted`; the columns' steps are used if they make the columns more alike."""
    size = np.abs(matrix)
    size_W = np.minimum(size, 16 * (np.median(size) + 1)).mean(axis=1 if _turned(context) else 0) + 0.01  # limits outliers
    steps_W = (context.row_steps if _turned(context) else context.column_steps) / 8
    used = int(np.std(np.log2(size_W) + steps_W) < np.std(np.log2(size_W)))
    size_W = size_W * np.exp2(used * (steps_W - np.median(steps_W)))
    scale = int(np.clip(np.rint(8 * np.log2(1.2533 * np.mean(size_W))), -128, 127))
    kind = PARITY if _knows_parity(context) else PREDICTED
    _, keep = _predicted(stream, context, kind, scale, used, known, matrix)
    return struct.pack("<BbB", kind, scale, used), keep


def _predicted(stream, context: MatrixContext, kind: int, scale: int, used: int, known: columns.Known, matrix: np.ndarray | None):
    """The matrix, coded or decoded, and a function that stores what later matrices are predicted from."""
    (rows, width), steps_W = (context.shape[::-1], context.row_steps) if _turned(context) else (context.shape, context.column_steps)
    partner = known.partners.get((context.layer, PARTNER.get(context.role)))
    partner = None if partner is None or partner.shape != (width, rows) else partner
    pool = known.pools.get(width) or Pool(width)
    steps_W = used * (steps_W.astype(np.int64) - int(np.sort(steps_W)[width // 2]))
    unit_W = UNIT * power(np.clip(2 * (steps_W - scale), -400, 400))
    values_WR = None if matrix is None else matrix if _turned(context) else matrix.T
    states = context.trellis if kind == PARITY else 0
    out_WR, moments, left_WR = columns.code(stream, (rows, width), unit_W, pool, context.role, partner, values_WR, states)

    def keep():
        for key in [key for key in known.partners if key[0] != context.layer]:
            del known.partners[key]
        known.pools[width] = pool
        pool.add(context.role, moments)
        known.partners[context.layer, context.role] = left_WR

    return out_WR if _turned(context) else out_WR.T, keep


def _take(blob: bytes, at: int, form: str) -> tuple[tuple, int]:
    end = at + struct.calcsize(form)
    if end > len(blob):
        raise CodecError("the header of the coded matrices ends early; the file is truncated, make it again")
    return struct.unpack_from(form, blob, at), end


def _header(blob: bytes, at: int, context: MatrixContext) -> tuple[tuple, int]:
    """(kind, fields ...) of one matrix, and the position of the next header."""
    (kind,), at = _take(blob, at, "<B")
    too_wide = kind in (PREDICTED, PARITY) and context.shape[0 if _turned(context) else 1] > MAX_WIDTH
    if kind not in FIELDS or too_wide or (kind == PARITY and not _knows_parity(context)):
        raise CodecError(f"matrix {context.name} is coded in a way that is not known; the file is damaged or newer than this program")
    fields, at = _take(blob, at, FIELDS[kind])
    if kind == HISTOGRAM:
        fields, at = _take(blob, at, f"<{fields[0]}s")
    return (kind, *fields), at
