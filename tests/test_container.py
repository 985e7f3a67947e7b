"""The blob: exact bytes, exact round trip, and every kind of damage is an ArtifactError or CodecError with a sentence."""

import hashlib
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.blob import quantized_model
from stages.runtime.base import plugin
from stages.runtime.base.errors import ArtifactError
from stages.runtime.blob import container, header, matrix_context
from stages.runtime.blob.codecs import CodecError, raw
from stages.runtime.blob.container import Coding, Model
from tests.golden import make

TENSORS = {
    "a.codes": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
    "a.scales": np.array([1, 2, 3], np.float16),
    "gain": np.array([0.5], np.float32),
}
MODEL = Model(TENSORS, {"width": 4}, {"a": {"gain": True}})
ZLIB = Coding("codecs/zlib", {"level": 9}, (), tuple(TENSORS))
GAIN = [Coding("codecs/zlib", {"level": 9}, (), ("gain",))]
GROUPS = [Coding("coders/ans", {}, (), ("a.codes",)), Coding("codecs/raw", {}, (), ("a.scales", "gain"))]


def fields(blob):
    """The header of a blob as JSON, and the coded bytes."""
    found = header.read(blob)
    return json.loads(zlib.decompress(blob[header.START : found.end])), blob[found.end :]


def sealed(values, coded=b"", *, text=None):
    """A blob with this header, its length and checksum right."""
    text = zlib.compress(json.dumps(values).encode()) if text is None else text
    return header.MAGIC + struct.pack("<I", len(text)) + hashlib.sha256(text).digest()[:8] + text + coded


def changed(change, codings=(ZLIB,)):
    """A valid blob after `change(header fields)`, its checksum right."""
    values, coded = fields(container.pack(MODEL, list(codings)))
    return sealed(change(values) or values, coded)


def test_sections_are_decoded_at_the_same_time(monkeypatch):
    """Each of the two waits until the other has begun; a codec that is a program takes a core of its own."""
    both, decode = threading.Barrier(2, timeout=20), raw.decode
    monkeypatch.setattr(raw, "decode", lambda coded, *, size: both.wait() >= 0 and decode(coded, size=size))
    monkeypatch.setattr(container.os, "cpu_count", lambda: 2)
    found = container.unpack(container.pack(MODEL, [Coding("codecs/raw", {}, (), (name,)) for name in ("a.codes", "a.scales")] + GAIN))
    assert all(np.array_equal(found.tensors[name], array) for name, array in TENSORS.items())


def test_blob_is_these_exact_bytes():
    model = Model({"x": np.array([1, -1], np.int8), "y.z": np.array([1.0], np.float16)}, {"w": 1}, {})
    content = b"\x01\xff\x00\x3c"
    text = zlib.compress(
        b'{"config":{"w":1},"schemes":{},"sections":[["codecs/raw",[],[["x","int8",[2]],["y.z","float16",[1]]],4,"'
        + hashlib.sha256(content).hexdigest().encode()
        + b'"]]}',
        9,
    )
    expected = b"CADDIE\x00\x02" + struct.pack("<I", len(text)) + hashlib.sha256(text).digest()[:8] + text + content
    assert container.pack(model, [Coding("codecs/raw", {}, (), ("x", "y.z"))]) == expected


def test_same_model_same_blob_and_key_order_does_not_matter():
    backwards = Model(TENSORS, {"b": 1, "a": {"d": 2, "c": 3}}, {})
    assert container.pack(backwards, [ZLIB]) == container.pack(Model(TENSORS, {"a": {"c": 3, "d": 2}, "b": 1}, {}), [ZLIB])


@pytest.mark.parametrize(
    "codings",
    [
        [ZLIB],
        GROUPS,
        GROUPS[::-1],
        [
            Coding("codecs/brotli", {}, (("sort_rows", {}), ("transpose", {}), ("delta", {"stride": 1})), ("a.codes",)),
            Coding("codecs/lzma", {}, (("byte_shuffle", {"stride": 2}),), ("gain", "a.scales", "a.codes.order")),
        ],
    ],
    ids=["whole", "coder last", "coder first", "filters"],
)
def test_tensors_configuration_and_schemes_come_back(codings):
    back = container.unpack(container.pack(MODEL, codings))
    assert quantized_model.same(back, MODEL) and list(back.tensors) != [] and back.schemes == {"a": {"gain": True}}


def test_model_with_every_kind_of_array_comes_back():
    for values in make.runs().values():
        run = make.Run.from_params(values, "run")
        if all(how not in ("codecs/lrzip", "codecs/zpaq", "codecs/zipnn") for how in run.plugins()):
            assert quantized_model.same(
                container.unpack(container.pack(make.model(), list(run.codings(make.model()).values()))), make.model()
            )


def test_section_of_a_coder_comes_after_the_steps_it_depends_on():
    values, _ = fields(container.pack(MODEL, GROUPS))
    assert [section[0] for section in values["sections"]] == ["codecs/raw", "coders/ans"]


@pytest.mark.parametrize(
    "codings, word",
    [
        ([Coding("codecs/raw", {}, (), ("a.codes", "gain"))], "a.scales"),
        ([ZLIB, Coding("codecs/raw", {}, (), ("gain",))], "twice"),
        ([Coding("codecs/raw", {}, (("sort_rows", {}),), tuple(TENSORS))], "a.codes.order"),
        ([Coding("codecs/raw", {}, (), (*TENSORS, "b"))], "b"),
    ],
)
def test_tensor_in_no_section_or_in_two_is_refused_when_packing(codings, word):
    with pytest.raises(ValueError, match=f"exactly one section.*{word}"):
        container.pack(MODEL, codings)


def put(path, value):
    """A change that sets one value of the header."""

    def change(values):
        *parents, last = path
        for key in parents:
            values = values[key]
        values[last] = value

    change.__name__ = f"{'.'.join(map(str, path))}={str(value)[:30]}"
    return change


FIRST = ("sections", 0)
SHAPE = (*FIRST, 2, 0, 2)


@pytest.mark.parametrize(
    "change",
    [
        put(("config",), []),
        put(("schemes",), 3),
        put(("schemes", "a"), 3),
        put(("sections",), {}),
        put(("more",), 1),
        put(FIRST, ["codecs/zlib", [], [], 0]),
        put(FIRST, 7),
        put((*FIRST, 0), "codecs/os"),
        put((*FIRST, 0), "zlib"),
        put((*FIRST, 0), "filters/delta"),
        put((*FIRST, 0), "codecs/../zlib"),
        put((*FIRST, 0), "codecs/zlib.py"),
        put((*FIRST, 0), None),
        put((*FIRST, 0), "model/gpt"),
        put((*FIRST, 0), "coders/ans"),
        put((*FIRST, 1), "delta"),
        put((*FIRST, 1), ["delta"]),
        put((*FIRST, 1), [["delta", {}]]),
        put((*FIRST, 1), [["delta", {"stride": -1}]]),
        put((*FIRST, 1), [["delta", {"stride": 10**9}]]),
        put((*FIRST, 1), [["delta", {"stride": 1, "more": 1}]]),
        put((*FIRST, 1), [["delta", [1]]]),
        put((*FIRST, 1), [["os", {}]]),
        put((*FIRST, 1), [["transpose", {"a": 1}]]),
        put((*FIRST, 1), [["delta", {"stride": 1}], ["transpose", {}]]),
        put((*FIRST, 1), [["sort_rows", {}]]),
        put((*FIRST, 1), [["bit_pack", {"bits": True}]]),
        put((*FIRST, 1), [["bit_pack", {"bits": 9}]]),
        put((*FIRST, 2), 3),
        put((*FIRST, 2, 0), ["x", "int8"]),
        put((*FIRST, 2, 0, 0), 1),
        put((*FIRST, 2, 0, 0), "../../etc/passwd"),
        put((*FIRST, 2, 0, 0), "a/b"),
        put((*FIRST, 2, 0, 0), ""),
        put((*FIRST, 2, 0, 0), "a..b"),
        put((*FIRST, 2, 0, 0), "gain"),
        put((*FIRST, 2, 0, 1), "int64"),
        put((*FIRST, 2, 0, 1), ["int8"]),
        put((*FIRST, 2, 0, 1), "object"),
        put(SHAPE, [-3, 4]),
        put(SHAPE, [3, True]),
        put(SHAPE, [3.0, 4]),
        put(SHAPE, [2**31]),
        put(SHAPE, [2**63]),
        put(SHAPE, [2**40, 2**40]),
        put(SHAPE, [1, 1, 1, 1, 12]),
        put(SHAPE, [2**30, 2]),
        put(SHAPE, [3, 5]),
        put(SHAPE, [3, 3]),
        put(SHAPE, "34"),
        put(SHAPE, [4, 4]),
        put((*FIRST, 3), -1),
        put((*FIRST, 3), 2**31),
        put((*FIRST, 3), 2**63),
        put((*FIRST, 3), "9"),
        put((*FIRST, 3), None),
        put((*FIRST, 3), True),
        put((*FIRST, 3), 5),
        put((*FIRST, 4), "0" * 64),
        put((*FIRST, 4), "0"),
        put((*FIRST, 4), None),
    ],
    ids=lambda change: change.__name__,
)
def test_header_that_lies_is_refused_with_one_sentence(change):
    with pytest.raises((ArtifactError, CodecError), match=r"^[^\n]*\w+ [^\n]*; [^\n]+$"):
        container.unpack(changed(change))


@pytest.mark.parametrize(
    "change",
    [
        put((*FIRST, 2, 0, 1), "int8"),
        put(("sections", 1, 1), [["delta", {"stride": 1}]]),
        put(("sections", 1, 2, 0, 1), "float16"),
        put(("sections", 1, 2, 0, 1), "uint8"),
        put(("sections", 1, 2, 0, 0), "a.code"),
        put(("sections", 1, 2, 0, 2), [12]),
        put(("sections", 1, 2, 0, 2), [2**15, 2**15]),
        put(("sections", 1, 2, 0, 2), [4, 3, 1]),
        lambda values: values | {"sections": values["sections"][::-1]},
        lambda values: values | {"sections": values["sections"][:1]},
        lambda values: values | {"sections": values["sections"] * 2},
    ],
)
def test_coders_section_that_lies_is_refused(change):
    with pytest.raises((ArtifactError, CodecError), match=r"; "):
        container.unpack(changed(change, GROUPS))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no zlib",
        zlib.compress(b"[]"),
        zlib.compress(b"{"),
        zlib.compress(b"[" * 100_000),
        zlib.compress(b'{"config":{},"config":{}}'),
        zlib.compress(b'{"config":{"a":NaN},"schemes":{},"sections":[]}'),
        zlib.compress(b'{"config":{"a":-Infinity},"schemes":{},"sections":[]}'),
        zlib.compress(b"\xff\xfe"),
        zlib.compress(bytes(3 << 20)),
        zlib.compress(b"{}") + b"more",
        zlib.compress(b"{}" * 1000)[:-3],
    ],
    ids=lambda text: repr(text[:12]),
)
def test_header_that_is_no_header_is_refused(text):
    with pytest.raises(ArtifactError, match="header"):
        header.read(sealed({}, text=text))


def test_checksum_guards_the_header():
    blob = bytearray(container.pack(MODEL, [ZLIB]))
    blob[header.START + 5] ^= 1
    with pytest.raises(ArtifactError, match="checksum"):
        header.read(bytes(blob))


def test_bytes_after_the_last_section_are_refused():
    with pytest.raises(ArtifactError, match=r"declares .* bytes of sections where there are"):
        container.unpack(container.pack(MODEL, [ZLIB]) + b"\0")


def test_order_that_no_filter_asks_for_or_that_is_no_permutation_is_refused():
    codings = [
        Coding("codecs/raw", {}, (("sort_rows", {}),), ("a.codes",)),
        Coding("codecs/raw", {}, (), ("a.scales", "gain", "a.codes.order")),
    ]
    values, coded = fields(container.pack(MODEL, codings))
    with pytest.raises(CodecError, match="permutation"):
        container.unpack(sealed(values, coded[:-2] + b"\x07\x00"))
    with pytest.raises(CodecError, match="permutation"):
        container.unpack(sealed(values, coded[:-2] + coded[-4:-2]))
    values["sections"][0][1] = []
    values["sections"].append(
        [
            "codecs/raw",
            [["sort_rows", {}]],
            [["b.codes", "int8", [0, 1]], ["b.codes.order", "uint16", [0]]],
            0,
            hashlib.sha256().hexdigest(),
        ]
    )
    with pytest.raises(ArtifactError, match="no filter asks for"):
        container.unpack(sealed(values, coded))


def test_every_truncation_is_refused():
    for codings in ([ZLIB], GROUPS):
        packed = container.pack(MODEL, codings)
        for cut in range(len(packed)):
            with pytest.raises(ValueError, match=r"blob|Caddie"):
                container.unpack(packed[:cut])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_never_decode_to_something_else(data):
    packed = bytearray(container.pack(MODEL, GROUPS))
    for position in data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=4, unique=True)):
        packed[position] ^= data.draw(st.integers(1, 255))
    try:
        decoded = container.unpack(bytes(packed))
    except (ArtifactError, CodecError):
        return
    assert quantized_model.same(decoded, MODEL)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    with pytest.raises(ArtifactError):
        container.unpack(data)
    with pytest.raises(ArtifactError):
        container.unpack(header.MAGIC + data)


# matrix_context


@pytest.mark.parametrize(
    "name, role",
    [
        ("embedding.weight", ("embedding", -1)),
        ("unembedding.weight", ("embedding", -1)),
        ("blocks.3.attention.query.weight", ("query", 3)),
        ("blocks.10.attention.output.weight", ("output", 10)),
        ("blocks.0.mlp.down.weight", ("down", 0)),
        ("untied_mlp.up.4.weight", ("up", 4)),
        ("bigram_hash.table.weight", ("table", -1)),
        ("bigram_hash.projection.weight", ("projection", -1)),
        ("value_embedding.table.weight", ("table", -1)),
        ("residual_mix.weight", ("projection", -1)),
        ("blocks.0.other.weight", ("other", -1)),
    ],
)
def test_role_and_layer_follow_from_the_name(name, role):
    assert matrix_context.role(name) == role


def test_steps_are_the_rounded_logarithms_of_all_scales():
    scales = np.array([2.0 ** (n / 8) for n in range(-100, 100)]).astype(np.float16)
    assert matrix_context.eighths(scales).tolist() == list(range(-100, 100))
    every = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16)
    assert np.array_equal(matrix_context.eighths(every), np.round(8 * np.log2(every.astype(np.float64))))
    small = np.arange(1, 127, dtype=np.uint8)
    sizes = np.where(small < 8, small / 8 * 2.0**-6, (1 + small % 8 / 8) * 2.0 ** (small // 8 - 7.0))
    assert np.array_equal(matrix_context.eighths(small), np.round(8 * np.log2(sizes)))
    assert matrix_context.eighths(np.array([0.0, -1.0, np.inf, np.nan], np.float16)).tolist() == [
        matrix_context.LOWEST,
        matrix_context.LOWEST,
        128,
        matrix_context.LOWEST,
    ]


def test_plan_adds_the_stored_steps_and_takes_groups_at_their_mean():
    stored = {
        "m.scales": np.array([[1, 2], [4, 4]], np.float16),
        "m.row_steps": np.array([3, -3], np.int8),
        "m.column_steps": np.array([1, 0, -1], np.int8),
    }
    plan = matrix_context.context("m", (2, 3), stored, {"trellis": 8})
    assert plan.row_steps.tolist() == [4 + 3, 16 - 3] and plan.column_steps.tolist() == [1, 0, -1] and plan.trellis == 8
    assert matrix_context.context("m", (2, 3), {}, {}).row_steps.tolist() == [0, 0]


def test_order_0_entropy_counts_every_quantized_matrix_and_says_what_it_leaves_out():
    sizes = quantized_model.sizes(make.model())
    matrices = [array for name, array in make.model().tensors.items() if name.endswith(".codes")]
    bits = 0.0
    for matrix in matrices:
        for value in set(matrix.ravel().tolist()):
            share = (matrix == value).mean()
            bits -= matrix.size * share * np.log2(share)
    rest = sum(array.nbytes for name, array in make.model().tensors.items() if not name.endswith(".codes"))
    assert sizes["entropy_bytes"] == np.ceil(bits / 8) and sizes["left_out_bytes"] == rest
    assert sizes["quantized_weights"] == sum(matrix.size for matrix in matrices) == sizes["weights"] - 16


def test_plug_in_that_another_thread_is_importing_is_waited_for(tmp_path, monkeypatch):
    """Sections are decoded by several threads; the second one got a module without its functions."""
    (tmp_path / "room_of_plugins").mkdir()
    (tmp_path / "room_of_plugins/__init__.py").touch()
    (tmp_path / "room_of_plugins/slow.py").write_text("import time\ntime.sleep(0.3)\ndecode = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: (time.sleep(0.05 * i), plugin.load_from("room_of_plugins", "slow").decode)[1], range(4)))
    assert found == [1] * 4
