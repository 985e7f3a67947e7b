"""ZipNN: byte planes of floating point, each with its own Huffman code (arXiv:2411.05239). Made for float weights, here for comparison.

The package has a decoder in C that trusts its input, so it runs in a process of its own, under limits. On one-byte codes it has nothing to
group and costs 16 % more than lrzip.
"""

import importlib.util
import sys

from .. import program
from . import CodecError, MissingProgram, exactly

PROGRAM = None
PACKAGE = "zipnn"
CODE = """
import sys
sys.path[:0] = {path!r}
from zipnn import ZipNN
codec = ZipNN(input_format="byte", bytearray_dtype={dtype!r}, threads=1)
data = open("source", "rb").read()
open("made", "wb").write(bytes(codec.{call}(data)))
"""
MAGIC = b"ZN"
DTYPES = ("float32", "float16", "bfloat16")


def encode(data: bytes, *, dtype: str = "float32") -> bytes:
    """`dtype` float32 | float16 | bfloat16: the layout in which bytes are grouped."""
    if dtype not in DTYPES:
        raise ValueError(f"zipnn takes dtype {' | '.join(DTYPES)}, not {dtype!r}")
    return DTYPES.index(dtype).to_bytes(1, "little") + (_run("compress", data, 2 * len(data) + 4096, dtype) if data else b"")


def decode(blob: bytes, *, size: int) -> bytes:
    if not blob or blob[0] >= len(DTYPES) or (len(blob) > 1) != (size > 0) or (size and blob[1:3] != MAGIC):
        raise CodecError("zipnn blob does not start with its header; the file is damaged, make it again")
    return exactly(_run("decompress", blob[1:], size, DTYPES[blob[0]]) if size else b"", size, "zipnn")


def _run(call: str, data: bytes, size: int, dtype: str) -> bytes:
    found = importlib.util.find_spec("zipnn")
    if found is None:
        raise MissingProgram(PACKAGE, is_package=True)
    code = CODE.format(path=[entry for entry in sys.path if entry], call=call, dtype=dtype)
    return program.run([sys.executable, "-I", "-c", code], name="zipnn", source=("source", data), target="made", size=size)
