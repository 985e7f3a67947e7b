"""Byte shuffle: every stride-th byte from the first on, then from the second on, and so on; this puts the high bytes of fp16 together.

    b[0] b[s] b[2s] ... b[1] b[1+s] ... b[s-1] b[2s-1] ...

The contest's entries use stride 2 over whole payloads (#1172, #1218); it helps with float16 and does nothing for one-byte codes.
"""

import numpy as np

from ..codecs import CodecError

ON_ARRAYS = False


def length(size: int, *, stride: int) -> int:
    if type(stride) is not int or not 2 <= stride <= 255:
        raise CodecError(f"byte_shuffle takes a stride of 2..255, not {stride!r}")
    return size


def forward(data: bytes, *, stride: int) -> bytes:
    """`stride` 2..255: the number of bytes of one number."""
    length(len(data), stride=stride)
    values = np.frombuffer(data, np.uint8)
    return b"".join(values[start::stride].tobytes() for start in range(stride))


def inverse(data: bytes, *, size: int, stride: int) -> bytes:
    length(size, stride=stride)
    values, out, taken = np.frombuffer(data, np.uint8), np.empty(size, np.uint8), 0
    for start in range(min(stride, size)):
        part = out[start::stride]
        part[:] = values[taken : taken + part.size]
        taken += part.size
    return out.tobytes()
