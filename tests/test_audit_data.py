"""What the audit says of text, files and times: overlap of splits, memorization, the counted file, budgets, hints from the code."""

import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stages.audit import reference_model, shingles
from stages.audit.checks import budgets, memorization, self_contained, split_overlap, static_reading
from stages.audit.reference_model import Trigram
from stages.lib.node import files
from stages.lib.referee import artifact
from stages.lib.tokens import splits

VOCABULARY = 300
BLOB = (Path(__file__).parent / "golden/v2_codec_zlib.blob").read_bytes()


def text(generator, documents, length=200):
    """A stream of documents; half of the tokens follow from the one before, so that there is something to learn."""
    parts = []
    for _ in range(documents):
        ids = generator.integers(4, VOCABULARY, length)
        for i in range(1, length, 2):
            ids[i] = (ids[i - 1] * 7) % (VOCABULARY - 4) + 4
        parts.append(np.r_[1, ids])
    return np.concatenate(parts)


class Stream:
    """What the checks use of stages.lib.tokens.stream.Stream."""

    def __init__(self, *shards):
        self.shards = [np.asarray(shard) for shard in shards]

    def __len__(self):
        return sum(map(len, self.shards))

    def __getitem__(self, part):
        return np.concatenate(self.shards)[part]


@pytest.fixture
def evidence(monkeypatch):
    """Evidence with splits of its own; `split_of` maps the folders to them."""
    generator = np.random.default_rng(0)
    streams = {"train": text(generator, 60), "holdout": text(generator, 20), "val": text(generator, 20)}

    class Found(SimpleNamespace):
        text = property(lambda self: as_split("val"))

    found = Found(
        submission=None,
        evaluator="sliding",
        options={"window": 64},
        train="train",
        holdout="holdout",
        streams=streams,
        settings=SimpleNamespace(overlap_tokens=10**9, memorization_tokens=10**6, seed=1),
    )

    def as_split(name):
        stream = streams[name]
        return splits.Split(
            Stream(*np.array_split(stream, 2)) if name == "train" else Stream(stream),
            np.where(stream == 1, 0, 3),
            {"vocabulary_size": VOCABULARY},
        )

    monkeypatch.setattr(splits, "read", lambda folder, name, sidecar=False: as_split(folder))
    return found


def test_runs_have_the_same_hash_wherever_they_stand():
    stream = np.random.default_rng(0).integers(0, 1024, 500)
    moved = np.r_[[5, 6, 7], stream[100:200]]
    assert len(shingles.of(stream)) == 500 - 63 and np.array_equal(shingles.of(moved)[3:], shingles.of(stream)[100:137])
    assert len(set(shingles.of(stream).tolist())) == 437 and len(shingles.of(stream[:63])) == 0
    assert shingles.of(np.r_[0, stream[:63]])[0] != shingles.of(np.r_[stream[:63], 0])[0]


def test_runs_are_found_at_every_position_and_only_where_they_are():
    generator = np.random.default_rng(1)
    stream = generator.integers(0, 1024, 5000)
    wanted = np.r_[shingles.of(stream)[[0, 17, 4936]], shingles.of(generator.integers(0, 1024, 64))]
    assert shingles.present(wanted, [stream[:2000], stream[2000:]]).tolist() == [True, True, True, False]
    assert shingles.present(wanted, []).tolist() == [False] * 4 and len(shingles.present(wanted[:0], [stream])) == 0


def test_blocks_change_nothing(monkeypatch):
    stream = np.random.default_rng(2).integers(0, 1024, 1000)
    starts = np.array([0, 30, 300, 364, 427, 900])  # some without a whole run, one with exactly one
    whole = shingles.of_documents(stream, starts)
    monkeypatch.setattr(shingles, "BLOCK", 100)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(shingles.of_documents(stream, starts), whole, strict=True))
    assert whole[1].tolist() == [1] * 4 + [2] + [4] * 7 + [5] and np.array_equal(whole[0][:4], shingles.of(stream)[[30, 94, 158, 222]])
    assert shingles.present(shingles.of(stream), [stream]).all()


def test_val_that_is_not_in_train_passes(evidence):
    verdict = split_overlap.check(evidence)
    assert verdict.verdict == "pass" and verdict.evidence["val"]["contained"] == 0 and verdict.positions == 60
    assert verdict.evidence["train_tokens_searched"] == verdict.evidence["train_tokens"] == 60 * 201


@pytest.mark.parametrize("documents", [12, 20])
def test_val_documents_in_train_are_caught_whatever_stands_around_them(evidence, documents):
    hidden = evidence.streams["val"][: documents * 201].reshape(-1, 201)[:, 1:]
    evidence.streams["train"] = np.r_[evidence.streams["train"], 9, hidden.ravel()]
    verdict = split_overlap.check(evidence)
    assert verdict.verdict == "fail" and verdict.evidence["val"]["contained"] >= documents - 1


def test_duplicates_that_are_in_holdout_too_are_nature(evidence):
    copies = evidence.streams["train"][: 10 * 201]
    for name in ("val", "holdout"):
        evidence.streams[name] = np.r_[evidence.streams[name], copies]
    verdict = split_overlap.check(evidence)
    assert verdict.verdict == "pass" and verdict.evidence["val"]["share"] == verdict.evidence["holdout"]["share"] > 0.3


def test_search_says_how_far_it_went(evidence):
    evidence.settings.overlap_tokens = 3000
    facts = split_overlap.check(evidence).evidence
    assert 3000 <= facts["train_tokens_searched"] <= 3002 < facts["train_tokens"]


def test_trigram_is_the_formula():
    stream = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2])
    model = Trigram(stream, 5)
    uniform, counts = 1 / 5, np.bincount(stream, minlength=5)
    first = (counts + 4 * uniform) / (9 + 4)  # p_1: nine tokens, four kinds
    after_1 = (np.array([0, 0, 2, 1, 0]) + 2 * first) / (3 + 2)  # p_2( . | 1)
    after_01 = (np.array([0, 0, 2, 1, 0]) + 2 * after_1) / (3 + 2)  # p_3( . | 0 1)
    assert model.nats(np.array([0, 1, 2])) == pytest.approx([-np.log((np.array([0, 3, 0, 0, 0]) + first)[1] / 4), -np.log(after_01[2])])
    rows = np.array([np.exp(-model.nats(np.array([0, 1, word]))[1]) for word in range(5)])
    assert rows.sum() == pytest.approx(1) and np.exp(-model.nats(np.array([4, 4, 2]))[1]) == pytest.approx(first[2])


def test_trigram_refuses_a_vocabulary_that_its_keys_do_not_hold():
    with pytest.raises(ValueError, match="trigram"):
        Trigram(np.zeros(3), 2**20 + 1)
    assert reference_model.ORDER * 20 < 63


def scores(monkeypatch, evidence, *, learned):
    """An artifact that is a trigram model itself, of the texts `learned`; the check's own model is of train."""
    model = Trigram(np.concatenate(learned), VOCABULARY)
    monkeypatch.setattr(artifact, "packed", lambda *_: None)
    monkeypatch.setattr(artifact, "score", lambda pyz, streams, **_: [artifact.Result({}, model.nats(stream), {}) for stream in streams])


def test_honest_artifacts_are_accused_as_seldom_as_the_check_says(evidence, monkeypatch):
    """1 % of them; of 100 that learned a text of their own, more than 5 would be a wrong error bar."""
    generator, accused = np.random.default_rng(3), 0
    for _ in range(100):
        evidence.streams |= {"val": text(generator, 12), "holdout": text(generator, 14)}
        scores(monkeypatch, evidence, learned=[text(generator, 40)])
        verdict = memorization.check(evidence)
        accused += verdict.verdict == "fail"
        assert verdict.positions == 26 and verdict.evidence["error_bits_per_byte"] > 0
    assert accused <= 5


def test_artifact_that_has_learned_val_is_caught_and_the_numbers_say_how_sure(evidence, monkeypatch):
    scores(monkeypatch, evidence, learned=[evidence.streams["train"], evidence.streams["val"]])
    verdict = memorization.check(evidence)
    facts = verdict.evidence
    assert verdict.verdict == "fail" and facts["deviation_bits_per_byte"] < facts["threshold_bits_per_byte"] < 0
    assert facts["found_with_99_percent_bits_per_byte"] >= -facts["threshold_bits_per_byte"] >= 2.3 * facts["error_bits_per_byte"]


def test_hard_val_is_no_accusation_and_easy_val_is_no_excuse(evidence, monkeypatch):
    """Both models find a part of the text easier: what counts is the difference."""
    easy = np.r_[evidence.streams["train"][: 30 * 201]]
    evidence.streams["val"] = easy  # known to both
    scores(monkeypatch, evidence, learned=[evidence.streams["train"]])
    assert memorization.check(evidence).verdict == "pass"


def test_artifact_without_a_sliding_evaluator_is_not_judged(evidence, monkeypatch):
    def refuse(*_):
        raise ValueError("not packed")

    monkeypatch.setattr(artifact, "packed", refuse)
    assert memorization.check(evidence).verdict == "not_applicable"


@pytest.mark.parametrize("degrees, expected", [(2, 6.964557), (4, 3.746947), (1e12, 2.326348)])
def test_quantile_is_that_of_the_tables(degrees, expected):
    assert memorization.quantile(degrees) == pytest.approx(expected, rel=1e-5)


def test_sample_is_whole_documents_the_same_for_the_same_seed(evidence):
    stream, counts = memorization.sample(evidence.text, 1000, 3)
    assert len(stream) == len(counts) == 4 * 201 and np.array_equal(stream, memorization.sample(evidence.text, 1000, 3)[0])
    assert (stream[::201] == 1).all() and len(memorization.sample(evidence.text, 1, 3)[0]) == 2 * 201


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "submission.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", "import os\n")
        archive.writestr("caddie/scoring/evaluators/odd.py", "def predict(self, seen, chunk):\n    self.loss(seen).backward()\n")
        archive.writestr("caddie/data/model.blob", BLOB)
    (tmp_path / "train_gpt.py").write_text("import os\n")
    return SimpleNamespace(
        submission=path,
        refused=[],
        metrics={"artifact_sha256": files.sha256(path)},
        evaluator="odd",
        script=tmp_path / "train_gpt.py",
        package=SimpleNamespace(cap_bytes=16_000_000),
    )


def test_small_file_that_needed_nothing_is_self_contained(packed):
    assert self_contained.check(packed).verdict == "pass"


@pytest.mark.parametrize("size, reason", [(16_000_000, None), (16_000_001, "16 MiB"), (17_000_000, "over the cap of")])
def test_cap_is_decimal(packed, size, reason):
    """Bytes in front of a zip are part of the file."""
    content = packed.submission.read_bytes()
    with open(packed.submission, "wb") as handle:
        handle.truncate(size - len(content))
        handle.seek(0, 2)
        handle.write(content)
    packed.metrics["artifact_sha256"] = files.sha256(packed.submission)
    verdict = self_contained.check(packed)
    assert verdict.verdict == ("fail" if reason else "pass") and (reason or "") in verdict.evidence.get("reason", "")
    assert ("MiB" in verdict.evidence.get("reason", "")) == (size == 16_000_001)


def test_script_counts_where_it_is_larger_than_the_programs_and_its_absence_is_not_ruled(packed):
    packed.script.write_bytes(b"#" * (16_000_000 - len(BLOB)))
    assert self_contained.check(packed).verdict == "pass"
    packed.package.cap_bytes = 15_999_999  # a lower cap of one's own counts, a higher one does not
    assert self_contained.check(packed).evidence["over_cap_bytes"] == 1
    packed.package.cap_bytes = 17_000_000
    packed.script.write_bytes(b"#" * (16_000_001 - len(BLOB)))
    assert "bits per weight instead of" in self_contained.check(packed).evidence["reason"]
    packed.script.unlink()
    verdict = self_contained.check(packed)
    assert verdict.verdict == "not_applicable" and "dvc repro script" in verdict.evidence["reason"]


def test_what_was_refused_and_what_changed_fails(packed):
    packed.refused = ["open /data/val.bin"]
    verdict = self_contained.check(packed)
    assert verdict.verdict == "fail" and "open /data/val.bin" in verdict.evidence["reason"]
    packed.refused = []
    packed.metrics["artifact_sha256"] = "another"
    assert self_contained.check(packed).verdict == "fail"


def machine(*, gpu="NVIDIA H100 80GB HBM3", processes=8, train=590.0, calibrate=5.0, source="train", evaluate=400.0):
    return SimpleNamespace(
        making={
            "train": {"train_seconds": train, "gpu": gpu, "processes": processes, "device": "cuda"},
            "prequant_ttt": {"seconds": 0.0},
            "calibrate": {"seconds": calibrate, "source": source},
        },
        metrics={"seconds": evaluate, "processes": processes},
    )


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({}, "pass"),
        ({"calibrate": 11.0}, "fail"),
        ({"calibrate": 198.0, "source": "self"}, "pass"),
        ({"train": 601.0, "calibrate": 1.0, "source": "self"}, "fail"),
        ({"evaluate": 601.0}, "fail"),
        ({"gpu": None}, "reported"),
        ({"gpu": "NVIDIA H200"}, "reported"),
        ({"processes": 1, "train": 9000.0}, "reported"),
        ({"gpu": None, "train": 1.0}, "reported"),
    ],
)
def test_budget_is_judged_on_eight_h100_and_nowhere_else(changes, verdict):
    found = budgets.check(machine(**changes))
    assert found.verdict == verdict and found.evidence["making_seconds"] > 0


def test_reading_is_a_hint_and_never_a_verdict(packed):
    verdict = static_reading.check(packed)
    assert verdict.verdict == "reported" and "predict() computes gradients" in verdict.evidence["hints"][0] and verdict.positions == 2
