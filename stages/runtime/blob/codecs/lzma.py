"""LZMA2 in an .xz container without integrity check (the blob has its own): LZ77 with a context-mixing range coder."""

import lzma

from . import CodecError, exactly

PROGRAM = None


def encode(data: bytes, *, preset: int = 9, extreme: bool = True) -> bytes:
    """`preset` 0..9; `extreme` searches longer for matches."""
    if not 0 <= preset <= 9:
        raise ValueError(f"lzma takes preset 0..9, not {preset}")
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=preset | (lzma.PRESET_EXTREME if extreme else 0))


def decode(blob: bytes, *, size: int) -> bytes:
    # A preset-9 dictionary is 64 MiB; a hostile header may ask for that plus a small reserve, and not for more.
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=128 << 20)
    try:
        data = decompressor.decompress(blob, max_length=size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise CodecError(f"lzma blob is damaged ({error}); make it again") from None
    if decompressor.eof and decompressor.unused_data:
        raise CodecError("lzma blob has bytes after its end; the file is damaged, make it again")
    if not decompressor.eof and len(data) <= size:
        raise CodecError("lzma blob ends early; the file is truncated, make it again")
    return exactly(data, size, "lzma")
