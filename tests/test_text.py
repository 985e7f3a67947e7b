"""Tokenizer and shards: nothing of the text is lost, every byte is counted once, damage is named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.tokens import splits
from stages.runtime.text.tokenizer import Tokenizer
from stages.runtime.tokens import shards
from stages.vocabulary import sentencepiece_training

TEXTS = ["The quick brown fox jumps over the lazy dog, 42 times.\n\n  def f(x):\n\treturn x\n" * 20, "Ünïcödé — ▁ and 日本語 " * 20]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(sentencepiece_training.train(TEXTS, size=320, character_coverage=0.999, sample_bytes=10**6))


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(),
        st.text("▁ \n\t\0<0xA>sunkbo"),
        st.sampled_from(
            ["▁", " ▁ ", "  leading", "trailing  ", "<s>", "<0x41>", "<unk>", "\0", "\r\n", "\u2585", "a\u0301", "\ufeff", "𝔘🙂", " "]
        ),
    )
)
def test_every_text_comes_back_and_its_bytes_are_counted(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.encode()
    assert int(tokenizer.byte_counts(np.array([1, *ids])).sum()) == len(text.encode())
    assert not set(ids) & {0, 1, 2, 3}  # control pieces never come from text


def test_training_is_repeatable():
    one, two = (sentencepiece_training.train(TEXTS, size=320, character_coverage=0.999, sample_bytes=10**6) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("size, advice", [(5000, r"at most \d+"), (262, r"at least \d+")])
def test_vocabulary_that_the_text_does_not_allow_says_what_would_fit(size, advice):
    with pytest.raises(ValueError, match=rf"vocabulary\.size {size} does not fit.*{advice}"):
        sentencepiece_training.train(TEXTS, size=size, character_coverage=0.999, sample_bytes=10**6)


def test_no_text_is_a_sentence():
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        sentencepiece_training.train([], size=300, character_coverage=0.999, sample_bytes=10**6)


def test_sample_stops_at_its_limit_and_long_lines_are_cut():
    chunks = list(sentencepiece_training._chunks(sentencepiece_training._sample(["x" * 10_000, "é" * 5000, "never"], 15_000, None)))
    assert all(len(chunk.encode()) <= 4000 for chunk in chunks)
    assert "".join(chunks) == "x" * 10_000 + "é" * 5000


@pytest.mark.parametrize("damaged", [b"", b"not a model", b"\x0a\x05hello"])
def test_file_that_is_no_tokenizer_is_refused(damaged):
    with pytest.raises(ValueError, match="tokenizer"):
        Tokenizer(damaged)


def test_shard_is_the_fields_format_byte_for_byte(tmp_path):
    shards.write(tmp_path / "x.bin", np.array([1, 515, 65535]))
    data = (tmp_path / "x.bin").read_bytes()
    assert data[:12] == bytes.fromhex("88d834010100000003000000") and data[12:1024] == bytes(1012)
    assert data[1024:] == bytes.fromhex("01000302ffff")
    assert shards.read(tmp_path / "x.bin").tolist() == [1, 515, 65535]


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda data: data[:-1], "truncated or damaged"),
        (lambda data: data[:-2], "truncated or damaged"),
        (lambda data: data + b"\0\0", "truncated or damaged"),
        (lambda data: data[:500], "shorter than a shard's header"),
        (lambda data: b"", "shorter than a shard's header"),
        (lambda data: b"\1" + data[1:], "not a token shard"),
        (lambda data: data[:4] + b"\2" + data[5:], "shard version 2"),
        (lambda data: data[:11] + b"\xff" + data[12:], "declares"),
    ],
)
def test_damaged_shard_is_named_with_what_is_wrong(tmp_path, damage, sentence):
    path = tmp_path / "fineweb_train_000000.bin"
    shards.write(path, np.arange(100))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"fineweb_train_000000\.bin.*{sentence}"):
        shards.read(path)


@pytest.mark.parametrize("values", [[70_000], [-1]])
def test_id_that_does_not_fit_is_not_written(tmp_path, values):
    with pytest.raises(ValueError, match="between 0 and 65535"):
        shards.write(tmp_path / "x.bin", np.array(values))


def test_sidecars_are_not_read_as_tokens(tmp_path):
    shards.write(tmp_path / "fineweb_val_000000.bin", np.arange(5))
    shards.write(tmp_path / "fineweb_val_000001.bin", np.arange(5, 8))
    shards.write(tmp_path / "fineweb_val_bytes_000000.bin", np.ones(8, int))
    assert shards.read_split(tmp_path, "val").tolist() == list(range(8))
    assert shards.read_sidecar(tmp_path, "val").tolist() == [1] * 8


def test_split_read_back_has_the_bytes_of_the_documents(finished):
    split = splits.read(finished / "artifacts/tokenize/val", "val", sidecar=True)
    from stages.lib.text import corpus

    assert int(split.byte_counts.sum()) == sum(len(text.encode()) for text in corpus.texts(finished / "artifacts/prepare/val"))
