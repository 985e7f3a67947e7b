"""The blob: named tensors and a JSON configuration, filtered, coded and checksummed. Specified in docs/artifact-format.md.

    blob    = b"CADDIE\\x00\\x01" | u32 length | JSON {codec, filter, size, sha256} | coded payload
    payload = u32 length | JSON {config, tensors: [[name, dtype, shape], ...]} | tensor bytes in that order

All integers are little endian. Headers are validated before anything is allocated for them; nothing is unpickled.
"""

import hashlib
import json
import math
import struct

import numpy as np

from . import plugin

MAGIC = b"CADDIE\x00\x01"
DTYPES = {"int8": np.dtype("<i1"), "float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 30


class ArtifactError(ValueError):
    """The blob is not one of ours, is damaged, or asks for more than it may."""


def serialise(tensors: dict[str, np.ndarray], config: dict) -> bytes:
    """The payload. Tensor order is kept: like beside like is what the codec can use."""
    entries = []
    for name, tensor in tensors.items():
        if tensor.dtype.name not in DTYPES:
            raise ValueError(f"tensor {name} has dtype {tensor.dtype}; the container stores {', '.join(DTYPES)}")
        entries.append([name, tensor.dtype.name, list(tensor.shape)])
    header = json.dumps({"config": config, "tensors": entries}, separators=(",", ":"), sort_keys=True).encode()
    body = b"".join(np.ascontiguousarray(tensor, DTYPES[tensor.dtype.name]).tobytes() for tensor in tensors.values())
    return struct.pack("<I", len(header)) + header + body


def deserialise(payload: bytes) -> tuple[dict[str, np.ndarray], dict]:
    """Inverse of `serialise`. ArtifactError unless the tensors fill the payload exactly: no holes, no overlaps, no rest."""
    header, offset = _header(payload, 0)
    tensors: dict[str, np.ndarray] = {}
    entries = header.get("tensors")
    if not isinstance(entries, list) or not isinstance(header.get("config"), dict):
        raise ArtifactError("the payload header lacks its tensor list or configuration; the blob is damaged, make it again")
    for entry in entries:
        name, dtype, shape = _entry(entry)
        if name in tensors:
            raise ArtifactError(f"tensor {name!r} appears twice in the blob; make it again")
        size = DTYPES[dtype].itemsize * math.prod(shape)
        if offset + size > len(payload):
            raise ArtifactError(f"tensor {name!r} reaches past the end of the blob; it is truncated, make it again")
        tensors[name] = np.frombuffer(payload, DTYPES[dtype], math.prod(shape), offset).reshape(shape)
        offset += size
    if offset != len(payload):
        raise ArtifactError(f"{len(payload) - offset} bytes of the blob belong to no tensor; it is damaged, make it again")
    return tensors, header["config"]


def pack(payload: bytes, *, codec: str, filter: str, options: dict) -> bytes:
    """Filter and code the payload, and put the header in front."""
    coded = plugin.load("codecs", codec).encode(plugin.load("filters", filter).forward(payload), **options)
    header = json.dumps({"codec": codec, "filter": filter, "size": len(payload),
                         "sha256": hashlib.sha256(payload).hexdigest()}, separators=(",", ":")).encode()
    return MAGIC + struct.pack("<I", len(header)) + header + coded


def header(blob: bytes) -> dict:
    """The validated header of a blob: {codec, filter, size, sha256}."""
    return _blob_header(blob)[0]


def unpack(blob: bytes) -> bytes:
    """The payload of a blob, verified by its sha256."""
    header, offset = _blob_header(blob)
    payload = plugin.load("filters", header["filter"]).inverse(
        plugin.load("codecs", header["codec"]).decode(blob[offset:], size=header["size"]))
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise ArtifactError("the blob decodes to other bytes than were coded (sha256 differs); it is damaged, make it again")
    return payload


def _blob_header(blob: bytes) -> tuple[dict, int]:
    if blob[: len(MAGIC)] != MAGIC:
        raise ArtifactError("not a Caddie blob (wrong magic or version); make it with: dvc repro compress")
    header, offset = _header(blob, len(MAGIC))
    if set(header) != {"codec", "filter", "size", "sha256"}:
        raise ArtifactError("the blob's header does not have exactly codec, filter, size and sha256; it is damaged, make it again")
    codec, filter, size = header["codec"], header["filter"], header["size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_PAYLOAD_BYTES:
        raise ArtifactError(f"the blob declares {size!r} bytes; between 0 and {MAX_PAYLOAD_BYTES} are allowed")
    if codec not in plugin.names("codecs") or filter not in plugin.names("filters"):
        raise ArtifactError(f"the blob names codec {codec!r} and filter {filter!r}, which are not installed here")
    return header, offset


def _header(data: bytes, offset: int) -> tuple[dict, int]:
    if len(data) < offset + 4:
        raise ArtifactError("the blob ends inside its header; it is truncated, make it again")
    (length,) = struct.unpack_from("<I", data, offset)
    offset += 4
    if length > MAX_HEADER_BYTES or offset + length > len(data):
        raise ArtifactError(f"the blob declares a header of {length} bytes; it is truncated or damaged, make it again")
    try:
        header = json.loads(data[offset: offset + length])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ArtifactError("the blob's header is not valid JSON; it is damaged, make it again")
    return header, offset + length


def _entry(entry) -> tuple[str, str, tuple[int, ...]]:
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and entry[1] in tuple(DTYPES)
            and isinstance(entry[2], list) and len(entry[2]) <= 4
            and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MAX_PAYLOAD_BYTES for n in entry[2])):
        raise ArtifactError(f"tensor entry {str(entry)[:80]} of the blob is not [name, dtype, shape]; it is damaged, make it again")
    return entry[0], entry[1], tuple(entry[2])
