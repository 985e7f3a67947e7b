"""Blobs that are wrong in every way that was thought of: flips, cuts, splices, swapped sections, lying sizes and names, bombs.

Each mutation is a function of a sound blob, or of two, and a random generator. Those that change the header put its length and checksum
right again, so that they reach what stands behind the checksum.
"""

import hashlib
import itertools
import json
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from stages.runtime.blob import header

SIZES = (-1, 0, 1, 255, 2**16, 2**30, 2**30 + 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 1e308, "7", None, True, [1], 0.5)
NAMES = (
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a.codes",
    "a\0b",
    "x" * 5000,
    "ä",
    "con.codes",
    "-rf",
    "$(id)",
    7,
    None,
)
WORDS = (
    "codecs/zlib",
    "codecs/lzma",
    "codecs/zstd",
    "codecs/brotli",
    "codecs/raw",
    "codecs/lrzip",
    "coders/ans",
    "coders/gaussian",
    "codecs/../../x",
    "filters/delta",
    "codecs/",
    "/",
    "codecs/__init__",
)
FILTERS = (
    [["transpose", {}]],
    [["sort_rows", {}]],
    [["delta", {"stride": 1}]],
    [["byte_shuffle", {"stride": 255}]],
    [["bit_pack", {"bits": 1}]],
    [["bit_pack", {"bits": 7}]] * 50,
    [["delta", {"stride": 65535}]],
    [["transpose", {}]] * 99,
    [["x", {}]],
    "x",
)


def parts(blob: bytes) -> tuple[dict, list[bytes]]:
    """The header as JSON and the coded bytes of each section."""
    found = header.read(blob)
    values = json.loads(zlib.decompress(blob[header.START : found.end]))
    sizes = np.cumsum([found.end, *(section.size for section in found.sections)]).tolist()
    return values, [blob[start:end] for start, end in itertools.pairwise(sizes)]


def sealed(values: dict, coded: list[bytes], *, sizes: bool = True) -> bytes:
    """A blob of this header and these sections; `sizes` puts those of the sections right."""
    if sizes:
        for section, data in zip(values["sections"], coded, strict=False):
            section[3] = len(data)
    text = zlib.compress(json.dumps(values, separators=(",", ":"), sort_keys=True).encode(), 1)
    return header.MAGIC + struct.pack("<I", len(text)) + hashlib.sha256(text).digest()[:8] + text + b"".join(coded)


def flip(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    out = bytearray(blob)
    for _ in range(int(random.integers(1, 9))):
        out[random.integers(len(out))] ^= 1 << int(random.integers(8))
    return bytes(out)


def flip_coded(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Behind the header only."""
    end = header.read(blob).end
    return blob[:end] + flip(blob[end:], other, random) if len(blob) > end else blob


def overwrite(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """A run of zeros, ones or noise behind the header."""
    end = header.read(blob).end
    start = int(random.integers(end, len(blob) + 1))
    length = int(random.integers(1, 64))
    run = [bytes(length), b"\xff" * length, random.bytes(length)][random.integers(3)]
    return (blob[:start] + run + blob[start + length :])[: len(blob)]


def cut(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    return blob[: int(random.integers(len(blob)))]


def cut_sections(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Sections of another length, the header true to it."""
    values, coded = parts(blob)
    which = int(random.integers(len(coded)))
    coded[which] = coded[which][: int(random.integers(len(coded[which]) + 1))] + random.bytes(int(random.integers(2) * random.integers(40)))
    return sealed(values, coded)


def splice(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    return blob[: int(random.integers(len(blob)))] + other[int(random.integers(len(other))) :]


def splice_sections(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """A section's coded bytes from another blob, or half of them."""
    values, coded = parts(blob)
    donor = parts(other)[1]
    which, data = int(random.integers(len(coded))), donor[random.integers(len(donor))]
    middle = int(random.integers(2) * random.integers(len(coded[which]) + 1))
    coded[which] = coded[which][:middle] + data[middle:]
    return sealed(values, coded)


def swap_sections(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Sections in another order, in the header, in the data or in both."""
    values, coded = parts(blob)
    order = random.permutation(len(coded))
    if random.integers(2):
        values["sections"] = [values["sections"][number] for number in order]
    if random.integers(2):
        coded = [coded[number] for number in order]
    return sealed(values, coded, sizes=bool(random.integers(2)))


def lie(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """One value of the header is another one: sizes, shapes, types, names, words, filters, hashes."""
    values, coded = parts(blob)
    section = values["sections"][random.integers(len(values["sections"]))]
    entry = section[2][random.integers(len(section[2]))] if section[2] else ["x", "int8", [1]]
    what = int(random.integers(9))
    if what == 0:
        section[3] = SIZES[random.integers(len(SIZES))]
    elif what == 1:
        entry[2] = [SIZES[random.integers(len(SIZES))] for _ in range(int(random.integers(6)))]
    elif what == 2 and entry[2]:
        entry[2][random.integers(len(entry[2]))] = SIZES[random.integers(len(SIZES))]
    elif what == 3:
        entry[0] = NAMES[random.integers(len(NAMES))]
    elif what == 4:
        entry[1] = ("int8", "int16", "int32", "uint8", "float16", "float32", "float64", "object", None, 3)[random.integers(10)]
    elif what == 5:
        section[0] = WORDS[random.integers(len(WORDS))]
    elif what == 6:
        section[1] = FILTERS[random.integers(len(FILTERS))]
    elif what == 7:
        entry[2] = [int(size) for size in random.integers(0, 3000, 2)]
    else:
        section[4] = (section[4][:-1], "0" * 64, None, 5)[random.integers(4)]
    return sealed(values, coded, sizes=what != 0)


def lie_in_stream(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """The first bytes of a section, where codecs keep sizes and windows, get extreme values."""
    values, coded = parts(blob)
    which = int(random.integers(len(coded)))
    data = bytearray(coded[which])
    start = int(random.integers(min(len(data), 24) + 1))
    data[start : start + 8] = [2**31, 2**63, 2**64 - 1, 0, 1, 2**32][random.integers(6)].to_bytes(8, "little")
    coded[which] = bytes(data)
    return sealed(values, coded)


def tree(blob: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """A header that is deep, long, of other types, or without keys."""
    values, coded = parts(blob)
    what = int(random.integers(7))
    if what == 0:
        values["config"] = {"a": "x" * int(random.integers(1 << 21))}
    elif what == 1:
        deep: list = []
        for _ in range(int(random.integers(1, 900))):
            deep = [deep]
        values["schemes"] = {"a": deep}
    elif what == 2:
        values["sections"] *= int(random.integers(2, 400))
    elif what == 3:
        del values[("config", "schemes", "sections")[random.integers(3)]]
        text = zlib.compress(json.dumps(values).encode())
        return header.MAGIC + struct.pack("<I", len(text)) + hashlib.sha256(text).digest()[:8] + text + b"".join(coded)
    elif what == 4:
        values["sections"][0][2] = [["a", "int8", [0]]] * 3000
    elif what == 5:
        values["sections"] = []
    else:
        text = zlib.compress(bytes(int(random.integers(1 << 22))), 9)
        return header.MAGIC + struct.pack("<I", len(text)) + hashlib.sha256(text).digest()[:8] + text
    return sealed(values, coded)


MUTATIONS: tuple[Callable, ...] = (
    flip,
    flip_coded,
    flip_coded,
    overwrite,
    cut,
    cut_sections,
    splice,
    splice_sections,
    swap_sections,
    lie,
    lie,
    lie_in_stream,
    lie_in_stream,
    tree,
)


def endless(blobs: list[bytes], seed: int) -> Iterator[tuple[int, str, bytes]]:
    """(number of the blob, name of the mutation, mutant), the same for the same seed."""
    random = np.random.default_rng(seed)
    while True:
        which, change = int(random.integers(len(blobs))), MUTATIONS[random.integers(len(MUTATIONS))]
        yield which, change.__name__, change(blobs[which], blobs[random.integers(len(blobs))], random)
