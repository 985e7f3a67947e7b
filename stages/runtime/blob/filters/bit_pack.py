"""Bit packing: each byte keeps its `bits` low bits, the first byte in the lowest bits of the stream.

A byte is an integer in two's complement, -2^(bits-1) to 2^(bits-1) - 1; others are refused. This is what random codes cost, so coders are
compared with it. In front of a codec that models bytes it makes the result larger (#1649: +12 %).
"""

import numpy as np

from .. import packing
from ..codecs import CodecError

ON_ARRAYS = False


def length(size: int, *, bits: int) -> int:
    if type(bits) is not int or not 1 <= bits <= 7:
        raise CodecError(f"bit_pack takes 1..7 bits, not {bits!r}")
    return packing.packed_size(size, bits)


def forward(data: bytes, *, bits: int) -> bytes:
    """`bits` 1..7 for each byte."""
    length(len(data), bits=bits)
    values = np.frombuffer(data, np.int8)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    if values.size and not (low <= values.min() and values.max() <= high):
        raise ValueError(
            f"bit_pack of {bits} bits holds {low} to {high}, the data {values.min()} to {values.max()}; take more bits, or "
            "put it on the codes alone"
        )
    return packing.pack(values.view(np.uint8), bits)


def inverse(data: bytes, *, size: int, bits: int) -> bytes:
    length(size, bits=bits)
    low_bits = packing.unpack(data, size, bits).astype(np.uint8)
    return ((low_bits << 8 - bits).view(np.int8) >> 8 - bits).tobytes()  # the arithmetic shift restores the sign
