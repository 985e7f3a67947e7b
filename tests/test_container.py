"""The blob: exact bytes, exact round trip, and every kind of damage is an ArtifactError or CodecError with a sentence."""

import hashlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.runtime import container
from stages.runtime.container import ArtifactError

TENSORS = {"a.codes": np.arange(-6, 6, dtype=np.int8).reshape(3, 4), "a.scales": np.array([1, 2, 3], np.float16),
           "gain": np.array([0.5], np.float32)}


def blob(**changes):
    """A valid blob with header fields replaced."""
    packed = container.pack(container.serialise(TENSORS, {"width": 4}), codec="zlib", filter="identity", options={"level": 9})
    (length,) = struct.unpack_from("<I", packed, 8)
    header = json.loads(packed[12: 12 + length]) | changes
    text = json.dumps(header).encode()
    return packed[:8] + struct.pack("<I", len(text)) + text + packed[12 + length:]


def payload(entries, body=b"", config=None):
    text = json.dumps({"config": {} if config is None else config, "tensors": entries}).encode()
    return struct.pack("<I", len(text)) + text + body


def test_payload_is_these_exact_bytes():
    header = b'{"config":{"w":1},"tensors":[["x","int8",[2]],["y","float16",[1]]]}'
    expected = struct.pack("<I", len(header)) + header + b"\x01\xff" + b"\x00\x3c"
    assert container.serialise({"x": np.array([1, -1], np.int8), "y": np.array([1.0], np.float16)}, {"w": 1}) == expected


def test_blob_starts_with_magic_and_its_header():
    data = container.serialise(TENSORS, {})
    packed = container.pack(data, codec="zlib", filter="identity", options={"level": 9})
    assert packed[:8] == b"CADDIE\x00\x01"
    assert container.header(packed) == {"codec": "zlib", "filter": "identity", "size": len(data),
                                        "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("filter", ["identity", "byte_shuffle"])
def test_tensors_and_configuration_come_back(filter):
    data = container.serialise(TENSORS, {"width": 4})
    tensors, config = container.deserialise(container.unpack(container.pack(data, codec="brotli", filter=filter, options={})))
    assert config == {"width": 4} and list(tensors) == list(TENSORS)
    assert all(np.array_equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)


@pytest.mark.parametrize("changes", [
    {"size": -1}, {"size": 2**63}, {"size": 2**31}, {"size": "9"}, {"size": True}, {"size": None}, {"codec": "os"}, {"codec": None},
    {"codec": "../zlib"}, {"filter": ["identity"]}, {"sha256": "0" * 64}, {"extra": 1},
])
def test_header_that_lies_is_refused(changes):
    with pytest.raises(ValueError, match=r"\w+ .*[a-z]"):
        container.unpack(blob(**changes))


@pytest.mark.parametrize("entries, body", [
    ([["x", "int8", [2]]], b"\1"), ([["x", "int8", [2]]], b"\1\2\3"), ([["x", "int8", [1]], ["x", "int8", [1]]], b"\1\2"),
    ([["x", "int64", [1]]], b"\0" * 8), ([["x", "int8", [-1]]], b""), ([["x", "int8", [2**40, 2**40]]], b""),
    ([["x", "int8", [1, 1, 1, 1, 1]]], b"\1"), ([["x", "int8"]], b""), ([[1, "int8", [0]]], b""), ("tensors", b""),
    ([["x", "int8", [True]]], b"\1"), ([["x", ["int8"], [1]]], b"\1"),
], ids=str)
def test_payload_with_holes_overlaps_or_nonsense_is_refused(entries, body):
    with pytest.raises(ArtifactError):
        container.deserialise(payload(entries, body))


def test_every_truncation_is_refused():
    packed = blob()
    for cut in range(len(packed)):
        with pytest.raises(ValueError, match="blob"):
            container.unpack(packed[:cut])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_never_decode_to_something_else(data):
    packed = bytearray(blob())
    for position in data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=4, unique=True)):
        packed[position] ^= data.draw(st.integers(1, 255))
    try:
        decoded = container.unpack(bytes(packed))
    except ValueError:
        return
    assert decoded == container.serialise(TENSORS, {"width": 4})


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    with pytest.raises(ArtifactError):
        container.unpack(data)
    with pytest.raises(ArtifactError):
        container.deserialise(data)
