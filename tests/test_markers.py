"""Fused markers and operators before the blank: every text comes back, three counts of bytes agree, and the ids are the published ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.audit.checks import files
from stages.lib.text import accounting, corpus
from stages.lib.text.encoder import Encoder
from stages.runtime.text import caseops, operators_first, sentencepiece_model
from stages.runtime.text.fused_markers import FusedMarkers
from stages.runtime.text.tokenizer import Tokenizer
from stages.runtime.tokens import shards
from stages.tokenize import __main__ as tokenize
from stages.vocabulary import __main__ as vocabulary
from stages.vocabulary import sentencepiece_training
from tests.test_byte_counts import export as export
from tests.test_byte_counts import models as models
from tests.test_byte_counts import take
from tests.test_tokenizers import ODD, TEXTS

WORDS = st.sampled_from(
    [" ", "The", " NASA", " iPhone", "\0", "\1", "\2", "\ue001", " \ue004", "\ue003 ", "▁A", ".", "é", "\n", " McDonald", *ODD]
)
TEXT = st.one_of(st.text(), st.lists(WORDS).map("".join), st.text(" Aa\0\1\2\ue001\ue002\ue003\ue004▁"))
KINDS = [(normalization, markers) for normalization in ("identity", "nmt_nfkc") for markers in ("fused_markers", "operators_first")]
IDS = FusedMarkers(blank=0, operators=(1, 2, 3, 4), markers=(5, 6, 7))


@pytest.fixture(scope="module")
def encoders() -> dict[tuple[str, str], Encoder]:
    def trained(normalization: str, markers: str) -> bytes:
        return sentencepiece_training.train(
            TEXTS,
            size=420,
            character_coverage=0.999,
            sample_bytes=None,
            normalization=normalization,
            caseops_transform=True,
            markers=markers,
        )

    return {kind: Encoder(trained(*kind)) for kind in KINDS}


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_every_text_comes_back_and_three_counts_of_its_bytes_agree(encoders, text):
    """The fast encoder against SentencePiece itself; check_documents compares text, sidecar and pieces, and raises."""
    for (normalization, _), encoder in encoders.items():
        found, tokenizer = encoder.encode(["x The", text, " The x"]), encoder.tokenizer
        assert found.ids[slice(*found.starts[1:])].tolist() == [1, *tokenizer.encode(text)]
        counted = dict(text_bytes=found.text_bytes, written_bytes=found.written_bytes, where="here")
        assert accounting.check_documents(tokenizer, found.ids, found.byte_counts, found.starts, **counted) > 0
        if normalization == "identity":
            assert tokenizer.decode(tokenizer.encode(text)) == text.encode()
            assert int(found.byte_counts[slice(*found.starts[1:])].sum()) == len(text.encode())
            assert found.byte_counts.tolist() == tokenizer.byte_counts(found.ids).tolist()


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_operators_that_were_moved_come_back(text):
    """Also where the text itself has operators and blanks behind them."""
    spelled = caseops.encode(text)
    moved = operators_first.encode(spelled)
    assert operators_first.decode(moved) == spelled and sorted(moved) == sorted(spelled)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([(0,), (1,), (2,), (3,), (4, 1), (4, 4), (0, 1), (0, 3), (5,), (6,), (7,), (8,)])))
def test_fused_markers_have_an_inverse_and_keep_the_sum_of_counts(parts):
    """Ids 5 to 7 that are in the source get an ESC, 4; ESC escapes operators in the source."""
    ids = np.array([i for part in parts for i in part], np.int64)
    fused, counts = IDS.fuse(ids, np.arange(len(ids)))
    assert IDS.separate(fused).tolist() == ids.tolist() and counts.sum() == len(ids) * (len(ids) - 1) // 2
    assert not ((fused[:-1] == 0) & np.isin(fused[1:], (1, 2, 3))).any() and len(counts) == len(fused)


@pytest.mark.parametrize(
    "source, expected",
    [
        ([0, 1, 9], [5, 9]),
        ([0, 2, 0, 3, 9], [6, 7, 9]),
        ([1, 0, 9, 0, 4, 1], [1, 0, 9, 0, 4, 1]),  # an operator without a blank, and a character of the text
        ([0, 0, 1], [0, 5]),
        ([9, 5], [9, 4, 5]),
        ([4, 4, 0, 1], [4, 4, 5]),
        ([4, 4, 5], [4, 4, 4, 5]),
    ],
)
def test_fused_markers_by_their_rule(source, expected):
    assert IDS.fuse(np.array(source))[0].tolist() == expected and IDS.separate(np.array(expected)).tolist() == source


def test_certificate_names_the_markers_and_the_ids_are_the_published_ones(encoders, models):
    for (normalization, markers), encoder in encoders.items():
        certificate = encoder.tokenizer.certificate()
        assert certificate["transform"] == f"lossless_caps_caseops_v1 {markers}" and certificate["lossless"] == (
            normalization == "identity"
        )
    model = models["nmt_nfkc", True]
    plain, fused = Tokenizer(model), Tokenizer(sentencepiece_model.with_markers(model, "fused_markers"))
    assert fused.fused_markers.operators == (4, 5, 6, 7) and fused.fused_markers.markers == (8, 9, 10), "as in #2109"
    blank, ids = fused.fused_markers.blank, plain.encode("it, The NASA")
    assert ids.count(blank) == 2
    written = ",".join(map(str, ids)).replace(f"{blank},4", "8").replace(f"{blank},5", "9")
    assert ",".join(map(str, fused.encode("it, The NASA"))) == written


def test_markers_without_caseops_or_of_another_version_are_refused(models):
    with pytest.raises(ValueError, match="is about CaseOps operators, and the tokenizer has none"):
        Tokenizer(sentencepiece_model.with_markers(models["identity", False], "fused_markers"))
    with pytest.raises(ValueError, match="the tokenizer has markers 'others', there are fused_markers, operators_first"):
        Tokenizer(sentencepiece_model.with_markers(models["identity", True], "others"))


@pytest.fixture
def published(tmp_path, export):
    """A published CaseOps export, as prepare takes it over: its folder."""
    for split, facts in take(export(("nmt_nfkc", True)), tmp_path / "prepared").items():
        (tmp_path / "prepared" / split / corpus.META).write_text(json.dumps(facts))
    return tmp_path / "prepared"


def through_vocabulary_and_tokenize(published, out, split: str, transform: str) -> dict:
    chosen = vocabulary.VocabularySettings("shards", ".", 420, "nmt_nfkc", transform, 0.99, None, None)
    model = out.parent / "tokenizer.model"
    vocabulary.main(chosen, file=out, documents=published / "train", model=model, metrics=out.parent / "vocabulary.json")
    tokenize.main(
        split, tokenize.TokenizeSettings(1000), documents=published / split, model=model, folder=out, scratch=out.parent / "scratch"
    )
    return json.loads((out / corpus.META).read_text())


@pytest.mark.parametrize("split", ["train", "val"])
def test_published_shards_are_fused_shard_by_shard_with_the_same_bytes(tmp_path, published, split):
    meta = through_vocabulary_and_tokenize(published, tmp_path / "fused", split, "fused_markers")
    before = [shards.read(path) for path in shards.token_paths(published / split, split)]
    after = [shards.read(path) for path in shards.token_paths(tmp_path / "fused", split)]
    markers = Tokenizer((tmp_path / "tokenizer.model").read_bytes()).fused_markers
    assert len(before) > 1 and [markers.separate(part).tolist() for part in after] == [part.tolist() for part in before]
    assert meta["tokens"] == sum(map(len, after)) < sum(map(len, before))
    encoder = Encoder((tmp_path / "tokenizer.model").read_bytes())
    assert files.compared(split, published / split, tmp_path / "fused", encoder)[2] == []
    path = shards.token_paths(tmp_path / "fused", split)[0]
    shards.write(path, np.where(np.arange(len(after[0])) == 2, 300, after[0]))
    assert any("not the published ones" in finding for finding in files.compared(split, published / split, tmp_path / "fused", encoder)[2])
    if split == "val":
        counts = meta["counts"]
        assert shards.read_sidecar(tmp_path / "fused", split).sum() == meta["bytes"] == counts["sidecar"] == counts["text"]


def test_shards_that_cannot_be_fused_are_refused(tmp_path, published):
    path = shards.token_paths(published / "train", "train")[0]
    tokens = np.array(shards.read(path))
    tokens[3:5] = 7, 8
    shards.write(path, tokens)
    with pytest.raises(ValueError, match="an ESC in front of a byte below 3, which no CaseOps text gives"):
        through_vocabulary_and_tokenize(published, tmp_path / "fused", "train", "fused_markers")
    with pytest.raises(ValueError, match="operators_first gives other tokens than the shards have"):
        through_vocabulary_and_tokenize(published, tmp_path / "fused", "train", "operators_first")
