"""Stride-2 byte shuffle: all even-indexed bytes, then all odd-indexed bytes, so that the high bytes of fp16 stand together.

Source: the field's byte-shuffle + brotli payloads (#1172, #1218).
"""

import numpy as np


def forward(data: bytes) -> bytes:
    values = np.frombuffer(data, np.uint8)
    return np.concatenate((values[0::2], values[1::2])).tobytes()


def inverse(data: bytes) -> bytes:
    values = np.frombuffer(data, np.uint8)
    out = np.empty_like(values)
    num_even = (values.size + 1) // 2
    out[0::2], out[1::2] = values[:num_even], values[num_even:]
    return out.tobytes()
