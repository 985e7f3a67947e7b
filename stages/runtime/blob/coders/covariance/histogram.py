"""Code integers one by one, with their own histogram or as plain digits: for matrices that prediction does not make smaller.

A value is a bucket and the bits below it. Up to +-127 every value is its own bucket; above that there are 64 buckets per octave, like the
numbers of a floating-point format. The bucket is coded with the histogram; the bits are coded as uniform.
"""

import struct
import zlib

import numpy as np

from ...codecs import CodecError
from .rans import BITS, TOTAL, Decoder, Encoder, uniform

EXACT = 128
MAX_BUCKETS = 2 * (EXACT + 25 * EXACT // 2)
DIGIT_BITS = 12  # bits of the highest digit, whose range need not be a power of two


def buckets(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of each value and the number of bits below it; values are int64 within the range of int32."""
    size = np.abs(values)
    bits = np.maximum(np.frexp(size.astype(np.float64))[1].astype(np.int64) - 7, 0)
    return 2 * (bits * (EXACT // 2) + (size >> bits)) + (values < 0), bits


def encode(stream: Encoder, values: np.ndarray) -> bytes:
    """Code the values (int64, at least one). Returns the table that `decode` needs, after its length."""
    bucket, bits = buckets(values)
    counts = np.bincount(bucket)
    first = int(np.flatnonzero(counts)[0])
    freq, start = _frequencies(counts[first:])
    stream.put(start[bucket - first], freq[bucket - first])
    _below(stream, bits, np.abs(values) & ((1 << bits) - 1))
    table = zlib.compress(struct.pack("<H", first) + (freq % TOTAL).astype("<u2").tobytes(), 9)
    return struct.pack("<H", len(table)) + table


def decode(stream: Decoder, count: int, table: bytes) -> np.ndarray:
    """Decode `count` values; `table` comes without its length."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(table, 2 + 2 * MAX_BUCKETS)
    except zlib.error:
        data = b""
    freq = np.frombuffer(data[2:], "<u2", len(data[2:]) // 2).astype(np.int64)
    freq = np.where(len(freq) == 1, TOTAL, freq)
    first = int.from_bytes(data[:2], "little")
    if not inflate.eof or len(data) % 2 or freq.sum() != TOTAL or first + len(freq) > MAX_BUCKETS:
        raise CodecError("a histogram of the coded matrices is damaged; make the file again")
    start, out = np.cumsum(freq) - freq, np.empty(count, np.int64)
    found = np.repeat(np.arange(len(freq)), freq)
    for i in range(0, count, stream.lanes):
        slot = stream.peek(min(stream.lanes, count - i))
        symbol = out[i : i + stream.lanes] = found[slot]
        stream.take(slot, start[symbol], freq[symbol])
    half = (out + first) >> 1
    bits = np.maximum(half // (EXACT // 2) - 1, 0)
    size = ((half - bits * (EXACT // 2)) << bits) + _below(stream, bits, None)
    return np.where((out + first) & 1, -size, size)


def encode_digits(stream: Encoder, values: np.ndarray) -> bytes:
    """Code the values as uniform between the smallest and the largest. Returns the header with these bounds."""
    least, span = int(values.min()), int(values.max() - values.min())
    header = struct.pack("<iI", least, span)
    _digits(stream, len(values), span, values - least)
    return header


def decode_digits(stream: Decoder, count: int, least: int, span: int) -> np.ndarray:
    return least + _digits(stream, count, span, None)


def _digits(stream, count: int, span: int, values: np.ndarray | None) -> np.ndarray:
    bits = max(span.bit_length() - DIGIT_BITS, 0)
    high = uniform(stream, np.full(count, (span >> bits) + 1), None if values is None else values >> bits)
    return (high << bits) + _below(stream, np.full(count, bits), None if values is None else values & ((1 << bits) - 1))


def _below(stream, bits: np.ndarray, low: np.ndarray | None) -> np.ndarray:
    """Code the `bits` lowest bits, at most 32, in portions of at most 16; decode them if `low` is None."""
    lower = np.minimum(bits, BITS)
    out = uniform(stream, 1 << lower, None if low is None else low & ((1 << lower) - 1)) if bits.any() else np.zeros(len(bits), np.int64)
    if (bits > BITS).any():
        out = out + (uniform(stream, 1 << (bits - lower), None if low is None else low >> BITS) << lower)
    return out


def _frequencies(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies that add up to TOTAL, at least 1 for each symbol that was counted; and the start of each interval."""
    total = int(counts.sum())
    freq = np.where(counts > 0, np.maximum(counts * TOTAL // total, 1), 0)
    order = np.argsort(-counts, kind="stable")
    rest, at = TOTAL - int(freq.sum()), 0
    while rest:
        index = order[at % len(order)]
        step = 1 if rest > 0 else -1
        if counts[index] and freq[index] + step >= 1:
            freq[index] += step
            rest -= step
        at += 1
    return freq, np.cumsum(freq) - freq
