"""ZipNN: byte planes of floating point, each with its own Huffman code (arXiv:2411.05239). Made for float weights; it is here to compare.

The package's decoder is in C and trusts its input, so it runs in a separate process under limits. It fails on short data and on lengths
that are not a multiple of 4, so zeros are added at the end. With one-byte codes it has nothing to group: 16 % larger than with lrzip.
"""

import importlib.util
import sys

from .. import external
from . import CodecError, MissingProgram, exactly

PROGRAM = None
PACKAGE = "zipnn"
CODE = """
import sys
sys.path[:0] = {path!r}
from zipnn import ZipNN
codec = ZipNN(input_format="byte", bytearray_dtype={dtype!r}, threads=1)
data = bytearray(open("source", "rb").read())  # it changes what it is given
open("made", "wb").write(bytes(codec.{call}(data)))
"""
MAGIC = b"ZN"
START_SECONDS = 60  # the package imports torch
DTYPES = ("float32", "float16", "bfloat16")


def encode(data: bytes, *, dtype: str = "float32") -> bytes:
    """`dtype` float32 | float16 | bfloat16: the layout in which bytes are grouped."""
    if dtype not in DTYPES:
        raise ValueError(f"zipnn takes dtype {' | '.join(DTYPES)}, not {dtype!r}")
    return bytes([DTYPES.index(dtype)]) + _run("compress", data + bytes(_padded(len(data)) - len(data)), 2 * len(data) + 4096, dtype)


def decode(blob: bytes, *, size: int) -> bytes:
    _require_package()
    # Bytes 16..23 of the package's header hold the size (little endian).
    if len(blob) < 28 or blob[0] >= len(DTYPES) or blob[1:3] != MAGIC or int.from_bytes(blob[17:25], "little") != _padded(size):
        raise CodecError(f"zipnn blob does not start with the header of {size} bytes; the file is damaged, make it again")
    data = exactly(_run("decompress", blob[1:], _padded(size), DTYPES[blob[0]]), _padded(size), "zipnn")
    if any(data[size:]):
        raise CodecError("zipnn blob holds other bytes than zeros after its end; the file is damaged, make it again")
    return data[:size]


def _require_package() -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingProgram(PACKAGE, is_package=True)


def _padded(size: int) -> int:
    return max(64, size + -size % 4)


def _run(call: str, data: bytes, size: int, dtype: str) -> bytes:
    _require_package()
    code = CODE.format(path=[entry for entry in sys.path if entry], call=call, dtype=dtype)
    return external.run(
        [sys.executable, "-I", "-c", code], name="zipnn", source=("source", data), target="made", size=size, start_seconds=START_SECONDS
    )
