"""Small streams that decode to far more than they declare, for every codec; some are bombs inside of bombs."""

import hashlib
import lzma
import zlib

import brotli
import numpy as np
import zstandard

from stages.runtime.blob.codecs import lrzip, zpaq
from tests.attacks.mutations import sealed

HUGE, SMALL = 1 << 28, 1000  # bytes that come out, and bytes that are declared
ONCE = {
    "zlib": lambda data: zlib.compress(data, 9),
    "lzma": lambda data: lzma.compress(data, preset=1),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
    "brotli": lambda data: brotli.compress(data, quality=1),
}
# What it is: its codec, and what makes a stream of HUGE zeros. They are made when they are wanted: together they take eight seconds.
STREAMS = {
    **{codec: (codec, lambda once=once: once(bytes(HUGE))) for codec, once in ONCE.items()},
    **{f"{codec} in {codec}": (codec, lambda once=ONCE[codec]: once(once(bytes(HUGE)))) for codec in ("zlib", "lzma", "brotli")},
    "lzma with a dictionary of 1.5 GiB": ("lzma", lambda: lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 3 << 29}])),
    "zstd without its size": ("zstd", lambda: zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(HUGE))),
    "zstd that lies": ("zstd", lambda: zstd_lying(SMALL)),
}


def zstd_lying(size: int) -> bytes:
    """A frame that declares `size` bytes and a window of 128 MiB, and holds 100 blocks of one repeated byte, 2^17 - 1 long."""
    block = (((1 << 17) - 1) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (((1 << 17) - 1) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x80" + bytes([17 << 3]) + size.to_bytes(4, "little") + block * 99 + last


def programs() -> list[tuple[str, str, bytes]]:
    """lrzip with a header that declares less than there is, and an archive of zpaq that holds more than declared."""
    lying = bytearray(lrzip.encode(bytes(1 << 22)))
    lying[6:14] = SMALL.to_bytes(8, "little")
    return [
        ("lrzip that lies", "lrzip", bytes(lying)),
        ("lrzip", "lrzip", lrzip.encode(bytes(1 << 22))),
        ("zpaq", "zpaq", zpaq.encode(bytes(1 << 22), method=1)),
    ]


def blob(codec: str, stream: bytes, size: int) -> bytes:
    """A blob with one tensor of `size` bytes and this stream for it."""
    sha256 = hashlib.sha256(np.zeros(size, np.int8).tobytes()).hexdigest()
    return sealed({"config": {}, "schemes": {}, "sections": [[f"codecs/{codec}", [], [["x", "int8", [size]]], 0, sha256]]}, [stream])
