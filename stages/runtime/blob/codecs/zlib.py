"""DEFLATE in a zlib wrapper (RFC 1950): LZ77 with Huffman codes, window 32 kB. The naive baseline's codec."""

import zlib

from . import CodecError, exactly

PROGRAM = None


def encode(data: bytes, *, level: int = 9) -> bytes:
    """`level` 0..9."""
    if not 0 <= level <= 9:
        raise ValueError(f"zlib takes level 0..9, not {level}")
    return zlib.compress(data, level)


def decode(blob: bytes, *, size: int) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(blob, size + 1)
    except zlib.error as error:
        raise CodecError(f"zlib blob is damaged ({error}); make it again") from None
    if decompressor.unused_data or decompressor.unconsumed_tail:
        raise CodecError("zlib blob holds more than its header declares; the file is damaged, make it again")
    if not decompressor.eof and len(data) <= size:
        raise CodecError("zlib blob ends early; the file is truncated, make it again")
    return exactly(data, size, "zlib")
