"""Zstandard (RFC 8878): LZ77 with finite-state entropy coding; levels 20 to 22 are zstd's `--ultra`."""

from . import CodecError, exactly

PROGRAM = None


def encode(data: bytes, *, level: int = 22, long: bool = False) -> bytes:
    """`level` 1..22; `long` searches all of the data for matches. With one thread and no dictionary, equal data give equal bytes."""
    import zstandard

    if not 1 <= level <= 22:
        raise ValueError(f"zstd takes level 1..22, not {level}")
    if not long:
        return zstandard.ZstdCompressor(level=level, write_checksum=False).compress(data)
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=27, enable_ldm=True, write_checksum=False)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def decode(blob: bytes, *, size: int) -> bytes:
    import zstandard

    try:
        frame = zstandard.get_frame_parameters(blob)
        if frame.content_size != size:
            raise CodecError(f"zstd blob declares {frame.content_size} bytes, its container {size}; the file is damaged, make it again")
        if frame.window_size > max(2 * size, 1 << 10):  # an encoder that knows the size never needs more
            raise CodecError(f"zstd blob asks for a window of {frame.window_size} bytes for {size}; the file is damaged, make it again")
        data = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(blob, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"zstd blob is damaged ({error}); make it again") from None
    return exactly(data, size, "zstd")
