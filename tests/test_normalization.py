"""Which normalization a tokenizer has: by its table, by every document, and by no field that SentencePiece reads in another way."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from stages.audit.checks import byte_count
from stages.lib.node import files
from stages.lib.referee import artifact
from stages.lib.text import normalization
from stages.runtime.text import sentencepiece_model
from stages.runtime.text.tokenizer import Tokenizer
from stages.vocabulary import sentencepiece_training
from tests.conftest import run_node
from tests.test_files import TOKENIZE, evidence

TEXTS = [
    f"The {noun} of the {other} is a THING that goes on and on." for noun in ("hand", "year", "road") for other in ("sea", "sky", "ﬁre")
]


def nmt_nfkc() -> bytes:
    return sentencepiece_training.train(TEXTS, size=330, character_coverage=1.0, sample_bytes=None, normalization="nmt_nfkc")


def field(number: int, value: bytes) -> bytes:
    """One field of wire type 2."""
    size, length = b"", len(value)
    while length > 127:
        size, length = size + bytes((length & 127 | 128,)), length >> 7
    return bytes((number << 3 | 2,)) + size + bytes((length,)) + value


def every_letter_is_e(folder: Path) -> bytes:
    """A model whose table turns every letter into an e, and that calls itself nmt_nfkc."""
    letters = [chr(code) for code in (*range(65, 91), *range(97, 123)) if chr(code) != "e"]
    (folder / "rule.tsv").write_text("".join(f"{ord(letter):X}\t65\n" for letter in letters))
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS),
        model_writer=out,
        model_type="bpe",
        vocab_size=266,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        add_dummy_prefix=False,
        normalization_rule_tsv=str(folder / "rule.tsv"),
        minloglevel=2,
    )
    kept, spec = b"", b""
    for number, value, whole in sentencepiece_model.fields(out.getvalue()):
        if number == normalization.NORMALIZER_SPEC:
            spec = b"".join(part for key, _, part in sentencepiece_model.fields(value) if key != 1) + field(1, b"nmt_nfkc")
        else:
            kept += whole
    return kept + field(normalization.NORMALIZER_SPEC, spec)


def judged_with(monkeypatch, model: bytes):
    """byte_count on the project's documents, tokenized by `model`, for an artifact that holds `model`."""
    Path("artifacts/vocabulary/tokenizer.model").write_bytes(model)
    run_node("tokenize", "val")
    monkeypatch.setattr(artifact, "read", lambda *_: model)
    looked = evidence()
    nats = np.ones(len(looked.tokens) - 1)
    size = int(looked.text.byte_counts.sum())
    loss = {"bits_per_byte": float(nats.sum() / np.log(2) / size), "loss_nats": 1.0, "bytes": size, "tokens": len(nats)}
    return byte_count.check(replace(looked, nats=nats, metrics=loss))


def test_table_that_calls_itself_nmt_nfkc_and_is_another_is_refused(project, monkeypatch, tmp_path):
    model = every_letter_is_e(tmp_path)
    assert Tokenizer(model).settings.normalization == "nmt_nfkc" and Tokenizer(model).processor.Normalize("The road") == "eee▁eeee"
    verdict = judged_with(monkeypatch, model)
    assert verdict.verdict == "fail" and "not the published nmt_nfkc" in verdict.evidence["reason"]
    assert verdict.evidence["tokenizer"]["normalization"].startswith("unknown")
    assert files.read_json(TOKENIZE / "val/meta.json")["certificate"]["normalization"].startswith("unknown")


def test_table_that_is_nmt_nfkc_is_called_so_and_accepted(project, monkeypatch):
    verdict = judged_with(monkeypatch, nmt_nfkc())
    assert verdict.verdict == "pass" and verdict.evidence["tokenizer"]["normalization"] == "nmt_nfkc"


def test_a_table_is_known_by_its_bytes_and_decoding_may_replace_nothing():
    model = nmt_nfkc()
    table = normalization._table(model, normalization.NORMALIZER_SPEC)
    renamed = model + field(normalization.NORMALIZER_SPEC, field(1, b"mine"))
    assert normalization.named(model) == normalization.named(renamed) == "nmt_nfkc" and normalization.objection(renamed) is None
    assert normalization.named(b'{"tokenizer_type": "pure_byte"}') == "identity"
    changed = model + field(normalization.NORMALIZER_SPEC, field(normalization.TABLE, table[:-1] + b"x"))
    assert normalization.objection(changed).startswith("the tokenizer's normalization is unknown")
    assert "when it decodes" in normalization.objection(model + field(normalization.DENORMALIZER_SPEC, field(normalization.TABLE, table)))


# Wrong wire types, by the message that they stand in: 0 the model itself, else the number of its message.
IN_TWO_WAYS = {
    "a table that is a number, behind the table": (normalization.NORMALIZER_SPEC, bytes([normalization.TABLE << 3, 0])),
    "a name that is a number": (normalization.NORMALIZER_SPEC, bytes([1 << 3, 0])),
    "a setting that is bytes": (normalization.NORMALIZER_SPEC, field(4, b"")),
    "a decoding table that is a number": (normalization.DENORMALIZER_SPEC, bytes([normalization.TABLE << 3, 0])),
    "an algorithm that is bytes": (2, field(3, b"")),
    "pieces that are a number": (0, bytes([1 << 3, 0])),
    "a trainer that is a number": (0, bytes([2 << 3, 0])),
    "a normalizer that is a number": (0, bytes([3 << 3, 0])),
    "a normalizer of eight bytes": (0, bytes([3 << 3 | 1, *bytes(8)])),
    "a decoder that is a number": (0, bytes([5 << 3, 0])),
    "a group": (0, bytes([3 << 3 | 3, 3 << 3 | 4])),
    "a tag of 33 bits, of which SentencePiece takes 32": (0, bytes([3 << 3 | 2 | 128, 128, 128, 128, 16, 2, 4 << 3, 1])),
    "a number of 65 bits, of which SentencePiece takes 64": (normalization.NORMALIZER_SPEC, bytes([4 << 3, *[128] * 9, 2])),
}


@pytest.mark.parametrize("way", IN_TWO_WAYS)
def test_tokenizer_that_can_be_read_in_two_ways_is_one_sentence(way):
    number, more = IN_TWO_WAYS[way]
    model = nmt_nfkc() + (field(number, more) if number else more)
    for look in (Tokenizer, normalization.named, normalization.objection, normalization.as_read):
        with pytest.raises(
            ValueError, match=r"^the tokenizer (is no protocol buffer.*read in two ways; give another|file is not a Sent.*)$"
        ):
            look(model)


def test_fields_that_only_sentencepiece_reads_must_have_its_types_too():
    model = nmt_nfkc()
    assert normalization.objection(model) is None
    for number, more in ((1, field(1, b"x") + field(2, b"score")), (2, field(4, b"")), (2, bytes([10 << 3, 0])), (3, bytes([6 << 3, 0]))):
        assert "made to be read in two ways" in normalization.objection(model + field(number, more))


def as_identity(model: bytes) -> bytes:
    """The same table in a model that calls itself identity and removes blanks, so that its score is divided by the normalized text."""
    return model + field(normalization.NORMALIZER_SPEC, field(1, b"identity") + bytes([3 << 3, 0, 4 << 3, 1]))


def test_table_hidden_behind_a_number_does_not_reach_a_score(project, tmp_path, capsys):
    """SentencePiece skips the number and keeps the table; a reader that lets the last value win would see no table."""
    model = as_identity(every_letter_is_e(tmp_path)) + field(normalization.NORMALIZER_SPEC, bytes([normalization.TABLE << 3, 0]))
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    assert processor.Normalize("The road") == "eee▁eeee"
    Path("artifacts/vocabulary/tokenizer.model").write_bytes(model)
    with pytest.raises(SystemExit):
        run_node("tokenize", "val")
    assert "made to be read in two ways" in capsys.readouterr().err


def test_normalization_is_compared_on_every_document_even_if_the_table_was_not_seen(project, monkeypatch, tmp_path):
    """A second line: as if our reader could be made to overlook a table once more."""
    real, model = sentencepiece_model.messages, as_identity(every_letter_is_e(tmp_path))

    def blind(model):
        found = real(model)
        found[normalization.NORMALIZER_SPEC].pop(normalization.TABLE, None)
        return found

    monkeypatch.setattr(sentencepiece_model, "messages", blind)
    assert normalization.named(model) == "identity" and normalization.objection(model) is None
    verdict = judged_with(monkeypatch, model)
    assert verdict.verdict == "fail" and "SentencePiece normalizes document 0 otherwise" in verdict.evidence["reason"]


def test_model_as_it_is_read_normalizes_as_the_model():
    for model in (nmt_nfkc(), as_identity(nmt_nfkc()), nmt_nfkc() + field(normalization.NORMALIZER_SPEC, bytes([3 << 3, 1, 5 << 3, 0]))):
        there, here = (Tokenizer(form).processor for form in (model, normalization.as_read(model)))
        for text in ("", " The  ﬁre ½ ", "a\u0301 \u00a0Ａ\t▁x\n"):
            assert there.Normalize(text) == here.Normalize(text) and there.encode(text) == here.encode(text)
