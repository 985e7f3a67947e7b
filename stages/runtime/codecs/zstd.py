"""Zstandard (RFC 8878): LZ77 with finite-state entropy coding; levels 20 to 22 are zstd's `--ultra`."""

from . import CodecError, exactly

PROGRAM = None


def encode(data: bytes, *, level: int = 22) -> bytes:
    """`level` 1..22. One thread and no dictionary: the same data give the same bytes."""
    import zstandard

    if not 1 <= level <= 22:
        raise ValueError(f"zstd takes level 1..22, not {level}")
    return zstandard.ZstdCompressor(level=level, write_checksum=False).compress(data)


def decode(blob: bytes, *, size: int) -> bytes:
    import zstandard

    try:
        declared = zstandard.get_frame_parameters(blob).content_size
        if declared != size:
            raise CodecError(f"zstd blob declares {declared} bytes, its container {size}; the file is damaged, make it again")
        data = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(blob, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"zstd blob is damaged ({error}); make it again") from None
    return exactly(data, size, "zstd")
