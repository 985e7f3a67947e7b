"""Tokenizers: published ids exactly, lossless where they say so, and a certificate that tells which bytes are counted."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.text.encoder import Encoder
from stages.runtime.text import caseops, sentencepiece_model
from stages.runtime.text.tokenizer import PURE_BYTE, Tokenizer
from stages.vocabulary import sentencepiece_training

TEXTS = [
    "The quick brown fox jumps over the lazy dog, 42 times.\n\n  def f(x):\n\treturn x\n" * 20,
    "Ünïcödé — and 日本語, NASA's iPhone by McDonald, ﬁne ½ Ⅷ\u00a0\u3000 OpenAI " * 20,
    "It was the best of times, it was the worst of times; IT WAS THE AGE of Wisdom. " * 20,
]
ODD = [
    "",
    " ",
    "▁",
    " ▁ ",
    "  leading",
    "trailing  ",
    "<s>",
    "<0x41>",
    "\0",
    "\r\n",
    "a\u0301",
    "T\u0301 E\u0308x",
    "\ufeff",
    "𝔘🙂",
    "\ue001x \ue004\ue002",
    "McDonald's iPHONE",
    "ﬁne\u00a0½",
    "日本語 Ａ",
    "A" * 5000,
    "a  b\n\n C",
    "\u200b x \u200b",
]
TEXT = st.one_of(st.text(), st.text("▁ \n\t\0<0xA>sunkboTHEthe\ue001\ue002\ue003\ue004é́ﬁ½Ａ日"), st.sampled_from(ODD))
KINDS = {
    (normalization, transform): dict(normalization=normalization, caseops_transform=transform)
    for normalization in ("identity", "nmt_nfkc")
    for transform in (False, True)
}


class One(NamedTuple):
    """An encoded document."""

    ids: np.ndarray
    byte_counts: np.ndarray
    text_bytes: int


def one(encoder: Encoder, text: str) -> One:
    """`text` encoded between two others: a document does not depend on its neighbours."""
    found = encoder.encode([TEXTS[0][:50], text, " x"])
    part = slice(*found.starts[1:3])
    assert found.raw_bytes[1] == len(text.encode())
    return One(found.ids[part], found.byte_counts[part], int(found.text_bytes[1]))


def trained(**options) -> bytes:
    return sentencepiece_training.train(TEXTS, size=420, character_coverage=0.999, sample_bytes=None, **options)


@pytest.fixture(scope="module")
def encoders() -> dict[tuple, Encoder]:
    found = {kind: Encoder(trained(**options)) for kind, options in KINDS.items()}
    return found | {("bytes",): Encoder(json.dumps(PURE_BYTE).encode())}


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_the_fast_encoder_gives_sentencepieces_own_ids(encoders, text):
    for kind, encoder in encoders.items():
        assert one(encoder, text).ids.tolist() == [1, *encoder.tokenizer.encode(text)], kind


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_a_published_tokenizer_is_plain_sentencepiece(encoders, text):
    tokenizer = encoders["nmt_nfkc", False].tokenizer
    assert tokenizer.encode(text) == tokenizer.processor.encode(text)
    with_caseops = encoders["nmt_nfkc", True].tokenizer
    assert with_caseops.encode(text) == with_caseops.processor.encode(caseops.encode(text))


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_lossless_tokenizers_give_every_text_back_and_count_its_bytes(encoders, text):
    for kind in (("identity", False), ("identity", True), ("bytes",)):
        encoded, tokenizer = one(encoders[kind], text), encoders[kind].tokenizer
        assert tokenizer.decode(encoded.ids[1:].tolist()) == text.encode()
        assert encoded.text_bytes == int(encoded.byte_counts.sum()) == len(text.encode())
        assert encoded.byte_counts.tolist() == tokenizer.byte_counts(encoded.ids).tolist()


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_published_tokenizers_count_the_normalized_text(encoders, text):
    encoder = encoders["nmt_nfkc", False]
    encoded = one(encoder, text)
    normalized = encoder.tokenizer.processor.normalize(text).replace("▁", " ").encode()
    assert encoder.tokenizer.decode(encoded.ids[1:].tolist()) == normalized
    assert encoded.text_bytes == int(encoded.byte_counts.sum()) == len(normalized)
    assert encoded.byte_counts.tolist() == encoder.tokenizer.byte_counts(encoded.ids).tolist()


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_published_caseops_counts_the_raw_bytes_of_each_surface(encoders, text):
    """Against SentencePiece's own surfaces, which come as a serialized protocol buffer."""
    encoder = encoders["nmt_nfkc", True]
    encoded = one(encoder, text)
    answer = encoder.tokenizer.processor.encode(caseops.encode(text), out_type="serialized_proto")
    pieces = [
        {key: value for key, value, _ in sentencepiece_model.fields(piece)}
        for number, piece, _ in sentencepiece_model.fields(answer)
        if number == 2
    ]
    assert encoded.ids[1:].tolist() == [piece.get(2, 0) for piece in pieces]
    assert encoded.byte_counts[1:].tolist() == caseops.byte_counts([bytes(piece.get(3, b"")).decode() for piece in pieces])
    assert int(encoded.byte_counts.sum()) == encoded.text_bytes <= len(text.encode())


def test_caseops_operators_are_the_pieces_4_to_7_as_published(encoders):
    tokenizer = encoders["nmt_nfkc", True].tokenizer
    assert tokenizer.operators == (4, 5, 6, 7) and tokenizer.processor.IdToPiece(8) == "<0x00>"
    assert encoders["nmt_nfkc", False].tokenizer.processor.IdToPiece(4) == "<0x00>"


def test_published_training_settings_are_in_the_model(encoders):
    def settings_of(kind):
        model = encoders[kind].tokenizer.processor.serialized_model_proto()
        spec = {
            number: dict((key, value) for key, value, _ in sentencepiece_model.fields(content))
            for number, content, _ in sentencepiece_model.fields(model)
            if number in (2, 3)
        }
        return spec[2], spec[3]

    trainer, normalizer = settings_of(("nmt_nfkc", False))
    assert normalizer[1] == b"nmt_nfkc" and normalizer.get(3) == 0 and normalizer.get(4, 1) == 1 and normalizer.get(5, 1) == 1
    assert trainer[3] == 2 and trainer[25] == 1 and trainer[35] == 1 and trainer[33] == 0  # bpe, split digits, byte fallback, soft limit
    assert [trainer.get(key) for key in (40, 41, 42, 43)] == [3, 1, 2, 0]  # unk, bos, eos; pad
    assert np.frombuffer(trainer[10], "<f4")[0] == np.float32(0.999)
    _, own = settings_of(("identity", False))
    assert own[1] == b"identity" and own.get(4) == 0 and not own.get(2)


@pytest.mark.parametrize(
    "kind, lossless, counted",
    [
        (("identity", False), True, "raw documents"),
        (("identity", True), True, "raw documents"),
        (("bytes",), True, "raw documents"),
        (("nmt_nfkc", False), False, "normalized documents"),
        (("nmt_nfkc", True), False, "raw documents, without the blanks that normalization removes at their ends"),
    ],
)
def test_the_certificate_says_whether_and_on_which_text(encoders, kind, lossless, counted):
    certificate = encoders[kind].tokenizer.certificate()
    assert certificate["lossless"] is lossless and certificate["bytes_counted_on"] == counted
    assert bool(certificate["lossy_because"]) is not lossless
    assert certificate["transform"] == ("lossless_caps_caseops_v1" if kind[-1] is True else "none")
    if not lossless:
        assert "normalization nmt_nfkc replaces characters" in certificate["lossy_because"]


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(add_dummy_prefix=True), "a blank is put in front of every text"),
        (dict(remove_extra_whitespaces=True), "blanks at the ends and repeated blanks are removed"),
        (dict(treat_whitespace_as_suffix=True), "blanks are suffixes of words"),
        (dict(normalization_rule_name="nfkc_cf"), "normalization nfkc_cf replaces characters"),
    ],
)
def test_every_setting_that_loses_something_is_named(tmp_path, change, reason):
    options = dict(normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False) | change
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "m"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
        **options,
    )
    model = (tmp_path / "m.model").read_bytes()
    assert Tokenizer(model).certificate()["lossy_because"] == [reason]
    encoder = Encoder(model)
    for text in [*TEXTS, *ODD]:
        assert one(encoder, text).ids.tolist() == [1, *encoder.tokenizer.processor.encode(text)]


def test_vocabulary_with_a_blank_inside_a_piece_is_encoded_whole(tmp_path):
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "m"),
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
        split_by_whitespace=False,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )
    encoder = Encoder((tmp_path / "m.model").read_bytes())
    assert not encoder.by_word
    for text in [*TEXTS, *ODD]:
        assert one(encoder, text).ids.tolist() == [1, *encoder.tokenizer.encode(text)]
        assert encoder.tokenizer.decode(one(encoder, text).ids[1:].tolist()) == text.encode()


def test_memory_of_words_has_a_bound_and_changes_no_id(encoders, monkeypatch):
    from stages.lib.text import encoder as module

    monkeypatch.setattr(module, "MAX_WORDS", 3)
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 30)
    small = Encoder(trained())
    for text in TEXTS * 2:
        assert one(small, text).ids.tolist() == one(encoders["identity", False], text).ids.tolist()
    assert len(small.words) == 3


def test_vocabulary_without_a_standalone_blank_is_refused_with_its_number():
    """#897: every blank would become three byte pieces."""
    model = sentencepiece_training.train(["日本語の文章です。" * 50], size=280, character_coverage=1.0, sample_bytes=None)
    with pytest.raises(ValueError, match=r"no standalone U\+2581 piece.*#897"):
        Tokenizer(model)


@pytest.mark.parametrize(
    "content", [b"{}", b'{"tokenizer_type": "char"}', json.dumps(PURE_BYTE | {"vocab_size": 261}).encode(), b"{", b'{"a":' + b"[" * 200_000]
)
def test_json_that_is_no_pure_byte_tokenizer_is_refused(content):
    with pytest.raises(ValueError, match="not the field's pure-byte tokenizer"):
        Tokenizer(content)


def test_pure_bytes_are_4_plus_the_byte(encoders):
    assert one(encoders["bytes",], "aé").ids.tolist() == [1, 4 + 0x61, 4 + 0xC3, 4 + 0xA9]
    assert encoders["bytes",].tokenizer.vocabulary_size == 260


@pytest.mark.parametrize("message", [b"\x0a", b"\x0a\x05ab", b"\xff" * 12, b"\x0b"])
def test_a_cut_protocol_buffer_is_an_error(message):
    with pytest.raises(ValueError, match="protocol buffer"):
        list(sentencepiece_model.fields(message))
