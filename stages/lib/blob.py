"""Blobs of any version: what a packed artifact reads of its own kind only, the pipeline's tools read of every kind ever written.

Version 1 (docs/artifact-format.md): one codec and one filter over the whole payload, int8 matrices with a scale per row.
"""

import hashlib
import json
import math
import struct

import numpy as np

from stages.runtime import container, plugin
from stages.runtime.container import Model
from stages.runtime.errors import ArtifactError

MAGIC_1 = b"CADDIE\x00\x01"
DTYPES_1 = {"int8": np.dtype("<i1"), "float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
FILTERS_1 = {"identity": None, "byte_shuffle": {"stride": 2}}
CODECS_1 = ("brotli", "lrzip", "lzma", "zlib", "zstd")
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 30


def read(blob: bytes) -> Model:
    """The model of a blob. ArtifactError or CodecError with one sentence if it is damaged."""
    return _read_1(blob) if blob[:8] == MAGIC_1 else container.unpack(blob)


def _read_1(blob: bytes) -> Model:
    header, offset = _header(blob, len(MAGIC_1))
    if set(header) != {"codec", "filter", "size", "sha256"}:
        raise ArtifactError("the blob's header does not have exactly codec, filter, size and sha256; it is damaged, make it again")
    codec, filter, size = header["codec"], header["filter"], header["size"]
    if not _is_size(size):
        raise ArtifactError(f"the blob declares {size!r} bytes; between 0 and {MAX_PAYLOAD_BYTES} are allowed")
    if codec not in CODECS_1 or filter not in tuple(FILTERS_1):
        raise ArtifactError(f"the blob names codec {codec!r} and filter {filter!r}, which version 1 does not have")
    payload = plugin.load("codecs", codec).decode(blob[offset:], size=size)
    if FILTERS_1[filter]:
        payload = plugin.load("filters", filter).inverse(payload, size=size, **FILTERS_1[filter])
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise ArtifactError("the blob decodes to other bytes than were coded (sha256 differs); it is damaged, make it again")
    return _payload_1(payload)


def _payload_1(payload: bytes) -> Model:
    header, offset = _header(payload, 0)
    tensors: dict[str, np.ndarray] = {}
    if not isinstance(header.get("tensors"), list) or not isinstance(header.get("config"), dict):
        raise ArtifactError("the payload header lacks its tensor list or configuration; the blob is damaged, make it again")
    for entry in header["tensors"]:
        if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and entry[1] in tuple(DTYPES_1)
                and isinstance(entry[2], list) and len(entry[2]) <= 4 and all(map(_is_size, entry[2]))):
            raise ArtifactError(f"tensor entry {str(entry)[:80]} of the blob is not [name, dtype, shape]; it is damaged, make it again")
        name, dtype, shape = entry[0], DTYPES_1[entry[1]], entry[2]
        size = dtype.itemsize * math.prod(shape)
        if name in tensors or offset + size > len(payload):
            raise ArtifactError(f"tensor {name!r} appears twice in the blob or reaches past its end; it is damaged, make it again")
        tensors[name] = np.frombuffer(payload, dtype, math.prod(shape), offset).reshape(shape)
        offset += size
    if offset != len(payload):
        raise ArtifactError(f"{len(payload) - offset} bytes of the blob belong to no tensor; it is damaged, make it again")
    return Model(tensors, header["config"], {})


def _is_size(value) -> bool:
    return type(value) is int and 0 <= value <= MAX_PAYLOAD_BYTES


def _header(data: bytes, offset: int) -> tuple[dict, int]:
    length = struct.unpack_from("<I", data, offset)[0] if len(data) >= offset + 4 else MAX_HEADER_BYTES + 1
    offset += 4
    if length > MAX_HEADER_BYTES or offset + length > len(data):
        raise ArtifactError("the blob ends inside its header; it is truncated or damaged, make it again")
    try:
        header = json.loads(data[offset: offset + length])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ArtifactError("the blob's header is not valid JSON; it is damaged, make it again")
    return header, offset + length
