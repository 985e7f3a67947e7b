"""Read and write the header of a blob. It is checked before anything is decoded or allocated. Specified in docs/artifact-format.md.

b"CADDIE\\x00\\x02" | u32 n | 8 bytes of sha256 | n bytes: zlib of JSON {config, schemes, sections} | coded sections
"""

import hashlib
import json
import math
import re
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from ..base import plugin
from ..base.errors import ArtifactError
from . import matrix_context
from .codecs import CodecError

MAGIC = b"CADDIE\x00\x02"
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32")}
CODE_DTYPES = ("int8", "int16", "int32")
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 30
MAX_CODES, MAX_AXES = 1 << 27, 1 << 22  # limits for all matrices of coders together: codes; rows plus columns
MAX_FILTERS = 8
CHECK_BYTES = 8
START = len(MAGIC) + 4 + CHECK_BYTES
NAME = re.compile(r"\w+(?:\.\w+)*", re.ASCII)
KEYS = {"config", "schemes", "sections"}


@dataclass(frozen=True)
class Entry:
    """One tensor as the header declares it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Section:
    """One section as the header declares it."""

    how: str
    filters: tuple[tuple[str, dict], ...]
    tensors: tuple[Entry, ...]
    size: int
    sha256: str


@dataclass(frozen=True)
class Header:
    """The validated header of a blob; the coded bytes start at `end`."""

    config: dict
    schemes: dict
    sections: tuple[Section, ...]
    end: int

    def plugins(self) -> list[str]:
        """The plug-ins that decode this blob: codecs/<name>, coders/<name> and filters/<name>, sorted."""
        return sorted(
            {section.how for section in self.sections} | {f"filters/{name}" for section in self.sections for name, _ in section.filters}
        )


def write(*, config: dict, schemes: dict, sections: list[Section]) -> bytes:
    """All bytes in front of the sections' coded bytes; canonical, so that equal contents give equal bytes."""
    fields = {
        "config": config,
        "schemes": schemes,
        "sections": [
            [
                section.how,
                [list(filter) for filter in section.filters],
                [[entry.name, entry.dtype, list(entry.shape)] for entry in section.tensors],
                section.size,
                section.sha256,
            ]
            for section in sections
        ],
    }
    text = zlib.compress(json.dumps(fields, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode(), 9)
    return MAGIC + struct.pack("<I", len(text)) + hashlib.sha256(text).digest()[:CHECK_BYTES] + text


def read(blob: bytes) -> Header:
    """The header of a whole blob. ArtifactError with one sentence if it violates any rule of docs/artifact-format.md."""
    if blob[: len(MAGIC)] != MAGIC:
        raise ArtifactError("not a Caddie blob (wrong magic or version); make it with: dvc repro compress")
    if len(blob) < START:
        raise ArtifactError("the blob ends inside its header; it is truncated, make it again")
    (length,) = struct.unpack_from("<I", blob, len(MAGIC))
    if not 0 < length <= MAX_HEADER_BYTES or START + length > len(blob):
        raise ArtifactError(f"the blob declares a header of {length} bytes; it is truncated or damaged, make it again")
    text = blob[START : START + length]
    if hashlib.sha256(text).digest()[:CHECK_BYTES] != blob[START - CHECK_BYTES : START]:
        raise ArtifactError("the blob's header does not fit its checksum; it is damaged, make it again")
    fields = _json(_inflate(text))
    _require(set(fields) == KEYS, "does not have exactly config, schemes and sections")
    _require(isinstance(fields["config"], dict), "has a configuration that is no object")
    _require(
        isinstance(fields["schemes"], dict) and all(isinstance(scheme, dict) for scheme in fields["schemes"].values()),
        "has schemes that are no objects",
    )
    _require(isinstance(fields["sections"], list), "has no list of sections")
    sections = tuple(_section(values) for values in fields["sections"])
    _check_together(sections, len(blob) - START - length)
    return Header(fields["config"], fields["schemes"], sections, START + length)


def on_arrays(filters, name: str) -> list[tuple[str, dict]]:
    """The array filters among `filters`, if the tensor `name` holds codes; they act on nothing else."""
    return [filter for filter in filters if name.endswith(matrix_context.CODES) and plugin.load("filters", filter[0]).ON_ARRAYS]


def on_bytes(filters) -> list[tuple[str, dict]]:
    """The filters among `filters` that act on bytes."""
    return [filter for filter in filters if not plugin.load("filters", filter[0]).ON_ARRAYS]


def extras(section: Section) -> list[str]:
    """Names of the arrays that the section's filters need for their inverse; they are not tensors of the model."""
    return [
        f"{entry.name}.{word}"
        for entry in section.tensors
        for name, _ in on_arrays(section.filters, entry.name)
        for word in plugin.load("filters", name).EXTRA
    ]


def _section(values) -> Section:
    _require(
        isinstance(values, list) and len(values) == 5, f"has a section {_short(values)} that is not [how, filters, tensors, size, sha256]"
    )
    how, filters, tensors, size, sha256 = values
    kind, _, name = how.partition("/") if isinstance(how, str) else ("", "", "")
    _require(kind in ("codecs", "coders") and name in plugin.names(kind), f"names {_short(how)}, which is not installed here")
    _require(
        isinstance(filters, list) and all(isinstance(filter, list) and len(filter) == 2 for filter in filters),
        f"has filters {_short(filters)} that are no list of [name, options]",
    )
    _require(len(filters) <= MAX_FILTERS, f"has {len(filters)} filters on a section, more than {MAX_FILTERS}")
    for filter in filters:
        _check_filter(*filter)
    order = [plugin.load("filters", filter).ON_ARRAYS for filter, _ in filters]
    _require(order == sorted(order, reverse=True), "has a filter on arrays after one on bytes")
    _require(isinstance(tensors, list), f"has tensors {_short(tensors)} that are no list")
    entries = tuple(_entry(entry) for entry in tensors)
    _require(kind == "codecs" or not filters, f"puts filters in front of the coder {name}")
    for entry in entries:
        _require(kind == "codecs" or _is_codes(entry), f"gives the coder {name} the tensor {entry.name}, which is no matrix of codes")
        _require(_is_codes(entry) or not on_arrays(filters, entry.name), f"puts a filter on {entry.name}, which is no matrix of codes")
    _require(_is_size(size), f"declares a section of {_short(size)} bytes")
    _require(isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256) is not None, f"has {_short(sha256)} for a sha256")
    return Section(how, tuple((filter, options) for filter, options in filters), entries, size, sha256)


def _check_filter(name, options) -> None:
    _require(isinstance(name, str) and name in plugin.names("filters"), f"names the filter {_short(name)}, which is not installed here")
    module = plugin.load("filters", name)
    try:
        _require(not module.ON_ARRAYS or options == {}, f"gives the filter {name} options, which it does not take")
        if not module.ON_ARRAYS:
            module.length(0, **options)
    except (TypeError, CodecError):
        _require(False, f"gives the filter {name} the options {_short(options)}, which it does not take")


def _entry(entry) -> Entry:
    is_entry = (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and NAME.fullmatch(entry[0]) is not None
        and entry[1] in tuple(DTYPES)
        and isinstance(entry[2], list)
        and len(entry[2]) <= 4
        and all(map(_is_size, entry[2]))
    )
    _require(is_entry, f"has a tensor {_short(entry)} that is not [name, dtype, shape]")
    return Entry(entry[0], entry[1], tuple(entry[2]))


def _check_together(sections: tuple[Section, ...], rest: int) -> None:
    names, total = set(), 0
    for section in sections:
        for entry in section.tensors:
            _require(entry.name not in names, f"names the tensor {entry.name} twice")
            names.add(entry.name)
            total += entry.num_bytes
    _require(total <= MAX_PAYLOAD_BYTES, f"declares {total} bytes of tensors, more than {MAX_PAYLOAD_BYTES}")
    shapes = [entry.shape for section in sections if section.how.startswith("coders/") for entry in section.tensors]
    _require(
        sum(map(math.prod, shapes)) <= MAX_CODES and sum(map(sum, shapes)) <= MAX_AXES,
        f"declares more than {MAX_CODES} codes, or {MAX_AXES} rows and columns, for coders",
    )
    kinds = [section.how.partition("/")[0] == "coders" for section in sections]
    _require(kinds == sorted(kinds), "has a codec's section after a coder's")
    wanted = {name for section in sections for name in extras(section)}
    _require(wanted <= names, f"lacks the arrays {_short(sorted(wanted - names))} that its filters need")
    unasked = {name for name in names - wanted if name.rpartition(".")[0] in names and f"{matrix_context.CODES}." in name}
    _require(not unasked, f"holds the arrays {_short(sorted(unasked))} that no filter asks for")
    coded = sum(section.size for section in sections)
    _require(coded == rest, f"declares {coded} bytes of sections where there are {rest}")


def _is_codes(entry: Entry) -> bool:
    return entry.name.endswith(matrix_context.CODES) and entry.dtype in CODE_DTYPES and len(entry.shape) == 2


def _is_size(value) -> bool:
    return type(value) is int and 0 <= value <= MAX_PAYLOAD_BYTES


def _inflate(text: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        inflated = decompressor.decompress(text, MAX_HEADER_BYTES)
    except zlib.error as error:
        raise ArtifactError(f"the blob's header is no zlib stream ({error}); it is damaged, make it again") from None
    _require(
        decompressor.eof and not decompressor.unused_data,
        f"inflates to more than {MAX_HEADER_BYTES} bytes, or does not end where it should",
    )
    return inflated


def _json(text: bytes) -> dict:
    def unique(pairs: list) -> dict:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def refuse(word: str):
        raise ValueError(f"{word} is no number")

    try:
        fields = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        fields = None
    _require(isinstance(fields, dict), "is not valid JSON")
    return fields


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ArtifactError(f"the blob's header {what}; it is damaged, or made by another version, make it again")


def _short(value) -> str:
    return repr(value)[:80]
