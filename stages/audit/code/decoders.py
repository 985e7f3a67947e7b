"""Decoders and decompressors that a packed script may name, each with a bound on the bytes that it gives and the memory that it takes."""

import base64
import binascii
import bz2
import contextlib
import lzma
import zlib
from collections.abc import Callable

SCRIPT_BYTES = 16_000_000  # limit for one decoded text: a script cannot be larger than the whole artifact may be
MEMORY = 96 << 20  # bytes that a decompressor's dictionary or window may use
CODECS = ("utf-8", "utf8", "utf_8", "ascii", "us-ascii", "latin-1", "latin1", "latin_1", "iso-8859-1", "utf-8-sig")  # all of linear time
REFUSALS = (
    TypeError,
    ValueError,
    AssertionError,
    OverflowError,
    binascii.Error,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    LookupError,
    MemoryError,
)


class TooMuch(Exception):
    """A bound is exceeded: the sentence says which."""


def decompress(data: bytes, *positional, format=None, filters=None, wbits: int = zlib.MAX_WBITS, **more) -> bytes:
    """Any `decompress`, of whichever module: LZMA by its filters or magic, else the first decompressor that accepts the data."""
    if not isinstance(data, bytes):
        raise TypeError("it takes bytes")
    if positional and isinstance(positional[0], int) and format is None and filters is None:
        wbits = positional[0]
    if not isinstance(wbits, int) or abs(wbits) > 47:
        raise ValueError("wbits is out of range")
    if filters is not None or format == lzma.FORMAT_RAW:
        for entry in filters or []:
            if int(entry.get("dict_size", 0)) > MEMORY:
                raise TooMuch(f"an LZMA dictionary of {entry['dict_size']:,} bytes is asked for")
        return _whole(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters))(data)
    attempts: list[Callable[[bytes], bytes]] = []
    if data[:6] == b"\xfd7zXZ\0" or data[:1] == b"\x5d":
        attempts.append(lambda raw: _whole(lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=MEMORY))(raw))
    if data[:3] == b"BZh":
        attempts.append(lambda raw: _whole(bz2.BZ2Decompressor())(raw))
    if data[:4] == b"\x28\xb5\x2f\xfd":
        attempts.append(_zstandard)
    attempts += [lambda raw: _inflate(raw, wbits), lambda raw: _inflate(raw, wbits | 32 if wbits > 0 else -15), _brotli]
    for attempt in attempts:
        with contextlib.suppress(zlib.error, lzma.LZMAError, OSError, EOFError, ImportError, TypeError, ValueError):
            return attempt(data)
    raise zlib.error("no known decompressor takes it")


def _whole(decompressor) -> Callable[[bytes], bytes]:
    return lambda data: _bounded(decompressor.decompress(data, SCRIPT_BYTES + 1))


def _inflate(data: bytes, wbits: int) -> bytes:
    decompressor = zlib.decompressobj(wbits)
    out = _bounded(decompressor.decompress(data, SCRIPT_BYTES + 1))
    if not decompressor.eof:
        raise zlib.error("the stream ends early")
    return out


def _brotli(data: bytes) -> bytes:
    import brotli

    decompressor, parts, total = brotli.Decompressor(), [], 0
    try:
        part = decompressor.process(data, output_buffer_limit=SCRIPT_BYTES + 1)
        while part and total <= SCRIPT_BYTES:
            parts.append(part)
            total += len(part)
            part = b"" if decompressor.is_finished() else decompressor.process(b"", output_buffer_limit=SCRIPT_BYTES + 1)
    except brotli.error as error:
        raise zlib.error(str(error)) from None
    if not decompressor.is_finished():
        _bounded(b"".join(parts))
        raise zlib.error("the stream ends early")
    return _bounded(b"".join(parts))


def _zstandard(data: bytes) -> bytes:
    import zstandard

    try:
        return _bounded(zstandard.ZstdDecompressor(max_window_size=MEMORY).stream_reader(data).read(SCRIPT_BYTES + 1))
    except zstandard.ZstdError as error:
        raise zlib.error(str(error)) from None


def _bounded(data: bytes) -> bytes:
    if len(data) > SCRIPT_BYTES:
        raise TooMuch(f"it unpacks to more than {SCRIPT_BYTES:,} bytes")
    return data


def as_text(data: bytes | str, codec: str = "utf-8", errors: str = "strict", **more) -> bytes | str:
    """bytes.decode or str.encode with a codec of the list; others need not be linear in time (punycode, idna)."""
    if not isinstance(codec, str) or codec.lower() not in CODECS:
        raise ValueError("its codec is not on the list of those that are read")
    errors = errors if errors in ("strict", "ignore", "replace", "surrogateescape") else "strict"
    return data.decode(codec, errors) if isinstance(data, bytes) else data.encode(codec, errors)


DECODERS: dict[str, Callable] = {
    "b85decode": base64.b85decode,
    "a85decode": base64.a85decode,
    "b64decode": base64.b64decode,
    "b32decode": base64.b32decode,
    "b16decode": base64.b16decode,
    "urlsafe_b64decode": base64.urlsafe_b64decode,
    "standard_b64decode": base64.standard_b64decode,
    "unhexlify": binascii.unhexlify,
    "a2b_base64": binascii.a2b_base64,
    "fromhex": bytes.fromhex,
    "decompress": decompress,
}
METHODS: dict[str, tuple[type | tuple, Callable]] = {
    "decode": (bytes, as_text),
    "encode": (str, as_text),
    "strip": ((str, bytes), lambda data, *characters: data.strip(*characters)),
}
