"""The end of the train text, which can ship with the weights: the evaluator `memory` counts it before it begins.

memory.bin:  "CADMEM01" | u32 n | the n tokens as u16, little endian, compressed by LZMA in the container xz

The text ships and not a table of its counts, because that takes fewer bytes for the same gain (docs/memory.md).
"""

import lzma
import struct

import numpy as np

MAGIC = b"CADMEM01"
DICTIONARY_BYTES = 1 << 24  # a decoder allocates as much
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": DICTIONARY_BYTES, "lc": 3, "lp": 1, "pb": 1}]


def pack(tokens: np.ndarray) -> bytes:
    """The bytes of memory.bin; none for no tokens."""
    if not len(tokens):
        return b""
    return MAGIC + struct.pack("<I", len(tokens)) + lzma.compress(tokens.astype("<u2").tobytes(), lzma.FORMAT_XZ, filters=FILTERS)


def unpack(content: bytes) -> np.ndarray:
    """The tokens (n) in memory.bin, int64. ValueError if it is damaged."""
    try:
        (n,) = struct.unpack("<I", content[len(MAGIC) : len(MAGIC) + 4])
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=4 * DICTIONARY_BYTES)
        coded = decoder.decompress(content[len(MAGIC) + 4 :], max_length=2 * n + 1)  # no more than it declares
        right = content.startswith(MAGIC) and n and len(coded) == 2 * n and decoder.eof and not decoder.unused_data
    except (struct.error, lzma.LZMAError):
        right = False
    if not right:
        raise ValueError("the text for the evaluator memory is damaged; pack the artifact again")
    return np.frombuffer(coded, "<u2").astype(np.int64)
