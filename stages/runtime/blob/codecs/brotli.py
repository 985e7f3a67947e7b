"""Brotli (RFC 7932): LZ77 with context-modelled Huffman codes. The contest's usual choice, at quality 11 and window 24."""

from . import CodecError, exactly

PROGRAM = None


def encode(data: bytes, *, quality: int = 11, window_bits: int = 24) -> bytes:
    """`quality` 0..11, `window_bits` 10..24 (log2 of the window in bytes)."""
    import brotli

    if not 0 <= quality <= 11 or not 10 <= window_bits <= 24:
        raise ValueError(f"brotli takes quality 0..11 and window_bits 10..24, not {quality} and {window_bits}")
    return brotli.compress(data, quality=quality, lgwin=window_bits)


def decode(blob: bytes, *, size: int) -> bytes:
    import brotli

    decompressor = brotli.Decompressor()
    parts, total = [], 0
    try:
        part = decompressor.process(blob, output_buffer_limit=size + 1)
        while part or not decompressor.can_accept_more_data():
            parts.append(part)
            total += len(part)
            if total > size or decompressor.is_finished():
                break
            part = decompressor.process(b"", output_buffer_limit=size + 1 - total)
    except brotli.error as error:
        raise CodecError(f"brotli blob is damaged ({error}); make it again") from None
    if total <= size and not decompressor.is_finished():
        raise CodecError("brotli blob ends early; the file is truncated, make it again")
    return exactly(b"".join(parts), size, "brotli")
