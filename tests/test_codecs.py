"""The contract of every codec and filter: exact round trip, repeatable bytes, damage refused with a sentence."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.runtime import plugin
from stages.runtime.codecs import CodecError, MissingProgram

CODECS, FILTERS = plugin.names("codecs"), plugin.names("filters")


def codec(name):
    module = plugin.load("codecs", name)
    if module.PROGRAM and not shutil.which(module.PROGRAM):
        pytest.skip(f"{module.PROGRAM} is not installed")
    return module


def sample(size=40_000):
    generator = np.random.default_rng(3)
    return np.clip(np.round(generator.normal(0, 2.4, size)), -31, 31).astype(np.int8).tobytes()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("data", [b"", b"a", b"ab" * 5000, sample()], ids=["empty", "one byte", "repeats", "codes"])
def test_decode_is_the_inverse_of_encode(name, data):
    assert codec(name).decode(codec(name).encode(data), size=len(data)) == data


@pytest.mark.parametrize("name", CODECS)
def test_same_data_same_blob(name):
    assert codec(name).encode(sample()) == codec(name).encode(sample())


@pytest.mark.parametrize("name", CODECS)
def test_codes_are_compressed_below_half(name):
    assert len(codec(name).encode(sample())) < 0.55 * len(sample())


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("declared", [0, 39_999, 40_001, 10**9])
def test_content_of_another_size_than_declared_is_refused(name, declared):
    with pytest.raises(CodecError):
        codec(name).decode(codec(name).encode(sample()), size=declared)


@pytest.mark.parametrize("name", [name for name in CODECS if name != "lrzip"])  # lrzip's own program ignores what follows
def test_bytes_after_the_end_are_refused(name):
    with pytest.raises(CodecError):
        codec(name).decode(codec(name).encode(sample()) + b"JUNK" * 10, size=40_000)


def test_lrzip_may_not_write_more_than_its_header_declares():
    blob = bytearray(codec("lrzip").encode(bytes(3_000_000)))
    blob[6:14] = (30).to_bytes(8, "little")
    with pytest.raises(CodecError):
        codec("lrzip").decode(bytes(blob), size=30)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("cut", [0, 1, 10, 0.5, -1])
def test_truncated_blob_is_refused(name, cut):
    blob = codec(name).encode(sample())
    with pytest.raises(CodecError):
        codec(name).decode(blob[: int(cut * len(blob)) if isinstance(cut, float) else cut], size=40_000)


@pytest.mark.parametrize("name", [name for name in CODECS if not plugin.load("codecs", name).PROGRAM])
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=3000))
def test_any_bytes_come_back(name, data):
    module = plugin.load("codecs", name)
    assert module.decode(module.encode(data), size=len(data)) == data


def test_missing_program_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install lrzip"):
        plugin.load("codecs", "lrzip").encode(b"data")


@pytest.mark.parametrize("name, options", [("brotli", {"quality": 12}), ("zlib", {"level": 10}), ("zstd", {"level": 23}),
                                           ("lzma", {"preset": 10}), ("lrzip", {"level": 0})])
def test_option_out_of_range_names_the_range(name, options):
    with pytest.raises(ValueError, match=r"takes"):
        plugin.load("codecs", name).encode(b"data", **options)


@pytest.mark.parametrize("name", FILTERS)
@given(data=st.binary(max_size=200))
def test_filter_is_reversible_and_keeps_the_length(name, data):
    module = plugin.load("filters", name)
    assert module.inverse(module.forward(data)) == data
    assert len(module.forward(data)) == len(data)


def test_byte_shuffle_puts_even_bytes_first():
    assert plugin.load("filters", "byte_shuffle").forward(b"0a1b2") == b"012ab"


def test_unknown_plugin_offers_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'brotli'"):
        plugin.load("codecs", "brotlli")


def test_codec_of_the_documentation_keeps_the_contract():
    import re
    import types

    from tests.conftest import ROOT

    source = re.search(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S).group(1)
    module = types.ModuleType("stages.runtime.codecs.bzip2")
    module.__package__ = "stages.runtime.codecs"
    exec(compile(source, "docs/extending.md", "exec"), module.__dict__)
    blob = module.encode(sample())
    assert module.decode(blob, size=40_000) == sample() and module.PROGRAM is None
    for cut in (0, 1, len(blob) // 2, len(blob) - 1):
        with pytest.raises(CodecError):
            module.decode(blob[:cut], size=40_000)
