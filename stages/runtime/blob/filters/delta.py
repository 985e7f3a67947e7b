"""Delta: each byte minus the one `stride` before it, modulo 256. It helps if numbers change slowly, and costs bytes with random codes.

Deltas between layers were tried on real weights and do not help (#1123: the difference has more entropy than the weights).
"""

import numpy as np

from ..codecs import CodecError

ON_ARRAYS = False


def length(size: int, *, stride: int) -> int:
    if type(stride) is not int or not 1 <= stride <= 65535:
        raise CodecError(f"delta takes a stride of 1..65535, not {stride!r}")
    return size


def forward(data: bytes, *, stride: int) -> bytes:
    """`stride` 1..65535: how far before each byte the subtracted byte is."""
    length(len(data), stride=stride)
    values = np.frombuffer(data, np.uint8).copy()
    values[stride:] -= np.frombuffer(data, np.uint8)[:-stride]
    return values.tobytes()


def inverse(data: bytes, *, size: int, stride: int) -> bytes:
    length(size, stride=stride)
    padded = np.zeros(-(-size // stride) * stride, np.uint8)
    padded[:size] = np.frombuffer(data, np.uint8)
    return np.cumsum(padded.reshape(-1, stride), axis=0, dtype=np.uint8).tobytes()[:size]
