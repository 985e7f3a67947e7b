"""Integers as bytes: many with a fixed number of bits, or single ones in groups of seven bits; and the frame that coders put them in.

packed = integers of `width` bits, the first in the lowest bits of the stream, the last byte filled with 0
frame  = u32 n | n bytes: zlib of the heads | u32 words
"""

import struct
import zlib

import numpy as np

from .codecs import CodecError

BLOCK = 1 << 16  # values at a time, a multiple of 8; limits memory, because each bit takes a byte while it is packed


def packed_size(count: int, width: int) -> int:
    """The number of bytes of `count` integers of `width` bits."""
    return -(-count * width // 8)


def pack(values: np.ndarray, width: int) -> bytes:
    """Pack `values`, which are at least 0 and below 2^width; width 0..32."""
    return b"".join(_pack(values[start : start + BLOCK], width) for start in range(0, len(values) if width else 0, BLOCK))


def unpack(data: bytes, count: int, width: int) -> np.ndarray:
    """Unpack exactly `packed_size` bytes to uint32 (count)."""
    out = np.zeros(count, np.uint32)
    step = BLOCK * width // 8
    for block in range(-(-count // BLOCK) if width else 0):
        part = out[block * BLOCK : (block + 1) * BLOCK]
        bits = np.unpackbits(
            np.frombuffer(data, np.uint8, packed_size(len(part), width), block * step), count=len(part) * width, bitorder="little"
        ).reshape(-1, width)
        for bit in range(width):
            part |= bits[:, bit].astype(np.uint32) << np.uint32(bit)
    return out


def _pack(values: np.ndarray, width: int) -> bytes:
    octets = np.ascontiguousarray(values, "<u4").view(np.uint8).reshape(-1, 4)
    return np.packbits(np.unpackbits(octets, axis=1, bitorder="little")[:, :width], bitorder="little").tobytes()


def frame(heads: "Writer", words: np.ndarray) -> bytes:
    """The frame of `heads` and `words` as bytes."""
    coded = zlib.compress(bytes(heads.data), 9)
    return struct.pack("<I", len(coded)) + coded + words.astype("<u4").tobytes()


def unframe(data: bytes, *, most: int, what: str) -> tuple["Reader", np.ndarray]:
    """The heads, at most `most` bytes when inflated, and the words (uint32) of a frame. CodecError if it is damaged."""
    length = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    if len(data) < 4 + length or (len(data) - length) % 4 or len(data) < 4:
        raise CodecError(f"{what} blob ends inside its heads or its words; the file is truncated, make it again")
    decompressor = zlib.decompressobj()
    try:
        heads = decompressor.decompress(data[4 : 4 + length], most + 1)
    except zlib.error as error:
        raise CodecError(f"{what} blob has damaged heads ({error}); make it again") from None
    if not decompressor.eof or decompressor.unused_data:
        raise CodecError(f"{what} blob has heads that do not end where they should; the file is damaged, make it again")
    return Reader(heads, what), np.frombuffer(data, "<u4", offset=4 + length).astype(np.uint32)


class Writer:
    """Collects bytes in `data`. An integer is written in groups of seven bits, lowest first, with the sign in the lowest bit."""

    def __init__(self):
        self.data = bytearray()

    def integer(self, value: int) -> None:
        value = 2 * value if value >= 0 else -2 * value - 1
        while value > 127:
            self.data.append(value & 127 | 128)
            value >>= 7
        self.data.append(value)

    def packed(self, values: np.ndarray) -> None:
        """Write int64 values that fit in int32: the smallest value, the width, and the packed differences from the smallest."""
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        width = (high - low).bit_length()
        self.integer(low)
        self.integer(width)
        self.data += pack((values - low).astype(np.uint32), width)


class Reader:
    """Reads the integers and raw bytes that a `Writer` wrote. CodecError if the data ends early."""

    def __init__(self, data: bytes, what: str):
        self.data, self.what, self.at = data, what, 0

    def integer(self) -> int:
        value = shift = 0
        while True:
            byte = self.part(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return -(value + 1 >> 1) if value & 1 else value >> 1
            if shift > 63:
                raise CodecError(f"{self.what} blob holds a number that is too long; the file is damaged, make it again")

    def bounded(self, low: int, high: int) -> int:
        value = self.integer()
        if not low <= value <= high:
            raise CodecError(f"{self.what} blob holds {value} where {low} to {high} may stand; the file is damaged, make it again")
        return value

    def packed(self, size: int) -> np.ndarray:
        """Read `size` packed values, int32 (size)."""
        low, width = self.bounded(-(1 << 31), (1 << 31) - 1), self.bounded(0, 32)
        values = unpack(self.part(packed_size(size, width)), size, width)
        if size and low + int(values.max()) >= 1 << 31:
            raise CodecError(f"{self.what} blob has integers beyond 32 bits; the file is damaged, make it again")
        return (values + np.uint32(low & 0xFFFFFFFF)).view(np.int32)

    def part(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise CodecError(f"{self.what} blob ends early; the file is truncated, make it again")
        self.at += size
        return self.data[self.at - size : self.at]

    def end(self) -> None:
        """Raises CodecError unless everything was read."""
        if self.at != len(self.data):
            raise CodecError(f"{self.what} blob has bytes after its end; the file is damaged, make it again")
