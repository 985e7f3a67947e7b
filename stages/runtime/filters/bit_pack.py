"""Bit packing: each byte keeps its `bits` low bits, the first byte in the lowest bits of the stream.

A byte is an integer in two's complement, -2^(bits-1) to 2^(bits-1) - 1; others are refused. The yardstick of every coder of codes: what
random codes cost. In front of a codec that models bytes it hurts (#1649: +12 %).
"""

import numpy as np

from ..codecs import CodecError

ON_ARRAYS = False
BLOCK = 1 << 16  # bytes at a time, a multiple of 8: bits as booleans take eight times their room


def length(size: int, *, bits: int) -> int:
    if type(bits) is not int or not 1 <= bits <= 7:
        raise CodecError(f"bit_pack takes 1..7 bits, not {bits!r}")
    return -(-size * bits // 8)


def forward(data: bytes, *, bits: int) -> bytes:
    """`bits` 1..7 for each byte."""
    length(len(data), bits=bits)
    values = np.frombuffer(data, np.int8)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    if values.size and not (low <= values.min() and values.max() <= high):
        raise ValueError(f"bit_pack of {bits} bits holds {low} to {high}, the data {values.min()} to {values.max()}; take more bits, or "
                         "put it on the codes alone")
    return b"".join(_pack(values[start: start + BLOCK], bits) for start in range(0, values.size, BLOCK))


def inverse(data: bytes, *, size: int, bits: int) -> bytes:
    length(size, bits=bits)
    step = BLOCK * bits // 8
    return b"".join(_unpack(data[block * step: (block + 1) * step], min(BLOCK, size - block * BLOCK), bits)
                    for block in range(-(-size // BLOCK)))


def _pack(values: np.ndarray, bits: int) -> bytes:
    spread = np.unpackbits(values.view(np.uint8)[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(spread, bitorder="little").tobytes()


def _unpack(data: bytes, count: int, bits: int) -> bytes:
    spread = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
    values = np.packbits(spread, axis=1, bitorder="little")[:, 0]
    return ((values << 8 - bits).view(np.int8) >> 8 - bits).tobytes()  # the arithmetic shift restores the sign
