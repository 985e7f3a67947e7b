"""What the audit says of text, files and times: overlap of splits, memorization, the counted file, budgets, hints from the code."""

import ast
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from stages.audit import bound, graph, reference_model, replay, shingles
from stages.audit.__main__ import judged
from stages.audit.checks import budgets, data_in_code, memorization, self_contained, split_overlap, static_reading
from stages.audit.reference_model import Trigram
from stages.lib.blob import bundle
from stages.lib.blob.grouping import Run
from stages.lib.node import files, params
from stages.lib.referee import artifact, jail
from stages.lib.text import accounting
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
        told = property(lambda self: {"evaluator": self.evaluator, "options": self.options})

        def generator(self, *purpose):
            return np.random.default_rng([1, *purpose])

    found = Found(
        submission=None,
        evaluator="sliding",
        options={"window": 64},
        train="train",
        holdout="holdout",
        streams=streams,
        settings=SimpleNamespace(overlap_tokens=10**9, memorization_tokens=10**6, replayed=60),
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
    copies = evidence.streams["train"][: 2 * 201]
    for name in ("val", "holdout"):
        evidence.streams[name] = np.r_[evidence.streams[name], copies]
    verdict = split_overlap.check(evidence)
    assert verdict.verdict == "pass" and verdict.evidence["val"]["share"] == verdict.evidence["holdout"]["share"] > 0.05


def test_documents_that_were_read_twice_are_no_nature(evidence):
    """Val and holdout both stand in train, so one says nothing of the other."""
    evidence.streams["train"] = np.r_[evidence.streams["train"], evidence.streams["val"], evidence.streams["holdout"]]
    verdict = split_overlap.check(evidence)
    assert verdict.verdict == "fail" and verdict.evidence["val"]["share"] == verdict.evidence["holdout"]["share"] == 1.0


def test_documents_shorter_than_a_run_cannot_be_looked_for(evidence):
    evidence.streams["val"] = np.tile(evidence.streams["val"][:20], 30)
    assert split_overlap.check(evidence).verdict == "not_applicable"


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


def scores(monkeypatch, evidence, *, learned, carries=False):
    """An artifact that is a trigram model itself, of the texts `learned`; the check's own model is of train. Returns what it was asked."""
    model, asked = Trigram(np.concatenate(learned), VOCABULARY), []

    def claim(pyz, tokens, **told):
        asked.append(np.asarray(tokens))
        return artifact.Claim(model.nats(tokens), 1.0, {"carries": carries})

    def replayed(pyz, *, tokens, claims, count, generator, vocabulary=VOCABULARY, **told):
        lid = bound.floor(count, vocabulary)
        drawn = bound.draw(lid.under(claims), lid, count, generator)
        places = np.unique(drawn)
        targets = np.arange(1, len(claims) + 1)
        return replay.Replay(drawn, places, model.nats(tokens)[places - 1], claims[places - 1], lid, len(claims), carries, True, targets)

    monkeypatch.setattr(artifact, "claim", claim)
    monkeypatch.setattr(replay, "run", replayed)
    evidence.metrics = {"carries": carries}
    evidence.nats, evidence.tokens = model.nats(evidence.streams["val"]), evidence.streams["val"]
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("carries", [False, True])
def test_honest_artifacts_are_accused_as_seldom_as_the_check_says(evidence, monkeypatch, carries):
    """0.1 % of them; of 100 that learned a text of their own, more than 1 would be a wrong error bar."""
    generator, accused = np.random.default_rng(3), 0
    for _ in range(100):
        evidence.streams |= {"val": text(generator, 12), "holdout": text(generator, 14)}
        scores(monkeypatch, evidence, learned=[text(generator, 40)], carries=carries)
        verdict = memorization.check(evidence)
        accused += verdict.verdict == "fail"
        assert verdict.positions == (24 if carries else 26) and verdict.evidence["error_bits_per_byte"] > 0
    assert accused <= 1


@pytest.mark.parametrize("carries", [False, True])
def test_artifact_that_has_learned_val_is_caught_and_the_numbers_say_how_sure(evidence, monkeypatch, carries):
    scores(monkeypatch, evidence, learned=[evidence.streams["train"], evidence.streams["val"]], carries=carries)
    verdict = memorization.check(evidence)
    facts = verdict.evidence
    assert verdict.verdict == "fail" and facts["deviation_bits_per_byte"] < facts["threshold_bits_per_byte"] < 0
    assert facts["found_with_99_percent_bits_per_byte"] >= -facts["threshold_bits_per_byte"] >= 2.3 * facts["error_bits_per_byte"]
    assert "bits per byte less than holdout" in facts["reason"] and list(facts["power"].values()) == sorted(facts["power"].values())


def test_gain_on_val_cannot_hide_behind_scores_of_val_that_jump(evidence, monkeypatch):
    """Some documents of val are predicted worse on purpose: the spread is that of holdout, so the mean gain is seen all the same."""
    scores(monkeypatch, evidence, learned=[evidence.streams["train"], evidence.streams["val"]])
    error = memorization.check(evidence).evidence["error_bits_per_byte"]
    noise = np.repeat(np.random.default_rng(1).permutation(np.r_[np.full(10, 0.9), np.full(10, -0.9)]), 201)[1:]
    evidence.nats = evidence.nats + noise
    verdict = memorization.check(evidence)
    assert verdict.verdict == "fail" and verdict.evidence["error_bits_per_byte"] == pytest.approx(error, rel=1e-9)


def test_claims_of_val_are_those_of_the_score_and_holdout_is_claimed_by_the_same_evaluator(evidence, monkeypatch):
    """One that learns along the way gets as much of holdout as of val; others get a drawn sample."""
    for carries, limit, tokens in ((True, 10**6, 20 * 201), (False, 1000, 4 * 201), (True, 1000, 20 * 201)):
        evidence.settings.memorization_tokens = limit
        asked = scores(monkeypatch, evidence, learned=[evidence.streams["train"]], carries=carries)
        found = memorization.check(evidence)
        assert len(asked) == 1 and len(asked[0]) == tokens and found.evidence["val"]["documents"] == 20


def test_hard_val_is_no_accusation_and_easy_val_is_no_excuse(evidence, monkeypatch):
    """Both models find a part of the text easier: what counts is the difference."""
    easy = np.r_[evidence.streams["train"][: 30 * 201]]
    evidence.streams["val"] = easy  # known to both
    scores(monkeypatch, evidence, learned=[evidence.streams["train"]])
    assert memorization.check(evidence).verdict == "pass"


def test_artifact_that_knows_val_and_holdout_by_heart_is_not_ruled(evidence, monkeypatch):
    """It predicts both alike, so the difference says nothing; but no model predicts unseen text so much better than trigrams."""
    scores(monkeypatch, evidence, learned=[evidence.streams["train"]])
    for share, expected in ((0.2, "not_applicable"), (0.3, "pass")):

        class Weak(Trigram):
            def nats(self, tokens, share=share):
                return super().nats(tokens) / share

        monkeypatch.setattr(memorization, "Trigram", Weak)
        verdict = memorization.check(evidence)
        assert verdict.verdict == expected and ("learned from" in verdict.evidence.get("reason", "")) == (expected == "not_applicable")


def test_one_holdout_document_has_no_spread_so_nothing_is_ruled(evidence, monkeypatch):
    """Its error would be 0, and an honest artifact would be accused."""
    evidence.streams["holdout"] = evidence.streams["holdout"][:201]
    scores(monkeypatch, evidence, learned=[evidence.streams["train"]])
    verdict = memorization.check(evidence)
    assert verdict.verdict == "not_applicable" and "no spread" in verdict.evidence["reason"]


def test_claim_with_a_gap_on_holdout_is_no_pass(evidence, monkeypatch):
    scores(monkeypatch, evidence, learned=[evidence.streams["train"]])
    for gap in (np.nan, np.inf):
        monkeypatch.setattr(
            artifact,
            "claim",
            lambda pyz, tokens, gap=gap, **told: artifact.Claim(np.r_[gap, np.ones(len(tokens) - 2)], 1.0, {"carries": False}),
        )
        verdict = judged(memorization, evidence)
        assert verdict.verdict == "fail" and "no finite cost for 1 targets of holdout" in verdict.evidence["reason"]


def test_artifact_that_says_another_thing_for_holdout_than_for_val_breaks_down(evidence, monkeypatch):
    scores(monkeypatch, evidence, learned=[evidence.streams["train"]], carries=False)
    evidence.metrics = {"carries": True}
    verdict = judged(memorization, evidence)
    assert verdict.verdict == "fail" and "something else of whether it carries" in verdict.evidence["reason"]


def test_sample_is_whole_documents_the_same_for_the_same_numbers(evidence):
    def drawn(limit, seed=3):
        return memorization.sample(evidence.text, limit, np.random.default_rng(seed))

    stream, counts = drawn(1000)
    assert (
        len(stream) == len(counts) == 4 * 201 and np.array_equal(stream, drawn(1000)[0]) and not np.array_equal(stream, drawn(1000, 4)[0])
    )
    assert (stream[::201] == 1).all() and len(drawn(1)[0]) == 2 * 201 and len(drawn(10**9)[0]) == 20 * 201


@pytest.mark.parametrize("limit, documents", [(1, 1), (201, 1), (202, 1), (401, 1), (402, 2), (20 * 201, 20), (10**9, 20)])
def test_beginning_is_whole_documents_up_to_the_limit(evidence, limit, documents):
    stream, counts = memorization.beginning(evidence.text, limit)
    assert len(stream) == len(counts) == documents * 201 and np.array_equal(stream, evidence.streams["val"][: len(stream)])


def test_documents_have_their_own_bits_and_bytes():
    """The start of a document counts to the one before, as in the score, and every target counts once."""
    stream = np.array([1, 5, 6, 1, 7, 1, 8, 9])
    nats, counts = np.log(2) * np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]), np.array([0, 3, 3, 0, 5, 0, 2, 2])
    reference = SimpleNamespace(nats=lambda ids: np.full(len(ids) - 1, np.log(2)))
    bits, guessed, size = memorization.per_document(stream, counts, nats, reference)
    assert bits == pytest.approx([7, 24, 96]) and guessed == pytest.approx([3, 2, 2]) and size.tolist() == [6, 5, 4]


OPTIONS = {"window": 64}


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(jail, "form", lambda: "bubblewrap")
    path = tmp_path / "submission.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", "import os\n")
        archive.writestr("caddie/scoring/evaluators/odd.py", "def predict(self, seen, chunk):\n    self.loss(seen).backward()\n")
        archive.writestr("caddie/data/model.blob", BLOB)
        archive.writestr("caddie/data/manifest.json", json.dumps({"protocol": artifact.PROTOCOL, "options": OPTIONS}))
    (tmp_path / "train_gpt.py").write_text("import os\n")
    return SimpleNamespace(
        submission=path,
        metrics={"artifact_sha256": files.sha256(path), "jail": "bubblewrap", "bytes": 1000},
        evaluator="odd",
        options=OPTIONS,
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


def test_artifact_that_changed_during_the_runs_fails(packed):
    packed.metrics["artifact_sha256"] = "another"
    verdict = self_contained.check(packed)
    assert verdict.verdict == "fail" and not verdict.evidence["unchanged_after_the_runs"]


@pytest.mark.parametrize("here, then", [("landlock", "bubblewrap"), ("bubblewrap", "landlock"), ("none", "none")])
def test_in_a_weaker_jail_it_is_not_ruled_and_the_way_out_is_named(packed, monkeypatch, here, then):
    """For the audit, and for the score that it audits."""
    monkeypatch.setattr(jail, "form", lambda: here)
    packed.metrics["jail"] = then
    verdict = self_contained.check(packed)
    assert verdict.verdict == "not_applicable" and "install bubblewrap" in verdict.evidence["reason"]


def test_options_that_are_not_the_packed_ones_count(packed):
    before = self_contained.check(packed).evidence["code_bytes"]
    packed.options = OPTIONS | {"bias": [0.25] * 100}
    after = self_contained.check(packed).evidence["code_bytes"]
    assert after == before + len(json.dumps(packed.options))


def test_options_that_are_packed_for_another_evaluator_do_not_count_twice(packed, monkeypatch):
    """A file that was filled to the cap would be over it for all evaluators but one."""
    before, manifest = self_contained.check(packed).evidence["code_bytes"], artifact.manifest(packed.submission)
    packed.options = {"window": 16, "stride": 4, "batch": 8}
    for others, more in (({"sliding": packed.options}, 0), ({}, len(json.dumps(packed.options))), (None, len(json.dumps(packed.options)))):
        monkeypatch.setattr(artifact, "manifest", lambda _, others=others: manifest | {"other_options": others})
        assert self_contained.check(packed).evidence["code_bytes"] == before + more


def test_entry_that_lies_outside_of_the_file_fails(packed):
    with zipfile.ZipFile(packed.submission, "a") as archive:
        archive.writestr("../outside", b"x")
    packed.metrics["artifact_sha256"] = files.sha256(packed.submission)
    verdict = self_contained.check(packed)
    assert verdict.verdict == "fail" and verdict.evidence["outside"] == ["../outside"]


DATA = {
    "bytes": ("table = " + repr(bytes(range(256)) + b"x"), 257),
    "a long word": (f"table = '{'A' * 300}'", 300),
    "long words in prose": (f"table = 'say {'A' * 150} and {'B' * 150}'", 300),
    "a long word in an f-string": (f"table = f'{{x}}{'A' * 300}'", 300),
    "a large number": (f"table = {1 << 4000}", 500),
    "a list of numbers": (f"table = {[7] * 300}", 300),
    "a set of negative numbers": (f"table = {{{', '.join(str(-i) for i in range(100, 200))}}}", 400),
    "a dictionary of numbers": (f"table = {{{', '.join(f'x{i}: 11' for i in range(150))}}}", 300),
    "what is no Python": ("table = (" + "9" * 400, 409),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_in_a_program_is_not_ruled_and_is_named(packed, kind):
    text, size = DATA[kind]
    with zipfile.ZipFile(packed.submission, "a") as archive:
        archive.writestr("caddie/tables.py", text)
    verdict = data_in_code.check(packed)
    assert (
        verdict.verdict == "not_applicable"
        and verdict.evidence["where"] == {"caddie/tables.py": size}
        and verdict.evidence["bytes"] == size
    )
    assert f"caddie/tables.py holds {size} bytes" in verdict.evidence["reason"]


def lock_of(path, *, vocabulary: str, prepare: str = "local", md5: str = "0" * 32):
    sections = {"vocabulary": {"source": vocabulary}, "prepare": {"source": prepare}}
    stages = {name: {"params": {"params.yaml": {name: section}}} for name, section in sections.items()}
    stages["vocabulary"]["deps"] = [{"path": "data/field.model", "md5": md5}]
    path.write_text(yaml.safe_dump({"stages": stages}))
    return path


def test_tokenizer_that_somebody_gave_is_data_whose_origin_nobody_sees(packed, tmp_path):
    """A piece may be a page of val, or hold it and never be used."""
    with zipfile.ZipFile(packed.submission, "a") as archive:
        archive.writestr("caddie/data/tokenizer.model", b"x" * 300)
    published, lock = next(iter(accounting.PUBLISHED_TOKENIZERS)), tmp_path / "dvc.lock"
    for known, origin in (
        ({"vocabulary": "bpe"}, "train"),
        ({"vocabulary": "bytes"}, "train"),
        ({"vocabulary": "shards", "prepare": "fineweb"}, "the shards of prepare"),
        ({"vocabulary": "shards"}, None),
        ({"vocabulary": "file"}, None),
        ({"vocabulary": "file", "md5": published}, accounting.PUBLISHED_TOKENIZERS[published]),
        ({"vocabulary": "bpe", "md5": published}, "train"),
    ):
        assert graph.tokenizer_origin(lock_of(lock, **known), b"x") == origin
        packed.lock = lock
        verdict = data_in_code.check(packed)
        assert verdict.verdict == ("pass" if origin else "not_applicable")
        assert ("published" in verdict.evidence.get("reason", "")) == (origin is None)
    assert graph.tokenizer_origin(tmp_path / "none", b"x") is None


@pytest.mark.parametrize(
    "options, size",
    [
        ({"bias": [0.5] * 100}, 500),
        ({"deep": {"bias": [list(range(100, 140)), 1]}}, 200),
        ({"key": "k" * 300}, 300),
        ({"n": 1 << 2100}, 262),
    ],
)
def test_data_in_the_options_counts(packed, options, size):
    packed.options = options
    found = data_in_code.check(packed).evidence
    assert found["where"] == {"options": size} and found["bytes"] == size


def test_programs_in_prose_and_short_constants_are_no_data(packed):
    with zipfile.ZipFile(packed.submission, "a") as archive:
        archive.writestr(
            "caddie/plain.py", f"{'a word of prose ' * 60!r}\nx = [1, 2, 3] * 9\ny = {list(range(31))}\nz = {2**63}\nw = '{'a' * 63}'\n"
        )
    assert data_in_code.check(packed).evidence["bytes"] == 0 and data_in_code.check(packed).verdict == "pass"


@pytest.mark.slow
def test_checks_that_read_programs_at_the_same_time_do_not_disturb_each_other(packed):
    """Python 3.11's parser counts its depth for all threads together."""
    with zipfile.ZipFile(packed.submission, "a") as archive:
        for number in range(12):
            archive.writestr(f"caddie/m{number}.py", "x = [f(g(h(i(j(k(1))))))]\ny = {'a': [1, (2, [3, [4]])]}\n" * 200)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(check, packed) for check in (data_in_code.check, static_reading.check) * 4]
        assert {one.result().verdict for one in found} == {"pass", "reported"}


def test_our_own_programs_and_options_hold_less_data_than_is_allowed():
    """All of the runtime together, which is more than any artifact packs."""
    root = Path(__file__).parents[1] / "stages/runtime"
    found = {path.name: sum(map(data_in_code.size, ast.walk(ast.parse(bundle.shortened(path.read_text()))))) for path in root.rglob("*.py")}
    assert len(found) > 50 and sum(found.values()) <= data_in_code.MOST_BYTES, {name: size for name, size in found.items() if size}
    tree = yaml.safe_load((root.parents[1] / "params.yaml").read_text())
    assert not any(data_in_code.of_values(run["options"]) for run in tree["evaluate"]["runs"].values())


def test_programs_of_the_default_are_within_the_bounds(tmp_path):
    tree = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    run = params.section(tree, Run, variant=tree["package"]["blob"].partition("/")[2])
    packed = tuple(tree["package"]["evaluators"])
    sources = bundle.code(plugins=run.plugins(), evaluators=packed, features=tuple(tree["model"]["features"]))
    manifest = {"options": tree["package"]["options"]}
    (tmp_path / "x.pyz").write_bytes(bundle.build(sources, manifest=manifest, blob=b"", memory=b"", tokenizer=b""))
    audited = SimpleNamespace(
        submission=tmp_path / "x.pyz", options=manifest["options"], metrics={"bytes": 400_000}, lock=tmp_path / "dvc.lock"
    )
    found = data_in_code.check(audited)
    assert found.verdict == "pass" and found.evidence["compressed"]["programs"] > 30_000, found.evidence


def machine(*, gpu="NVIDIA H100 80GB HBM3", processes=8, train=590.0, calibrate=5.0, tuning=0.0, source="train", evaluate=400.0):
    return SimpleNamespace(
        making={
            "train": {"train_seconds": train, "gpu": gpu, "processes": processes, "device": "cuda"},
            "prequant_ttt": {"seconds": 0.0},
            "calibrate": {"seconds": calibrate, "source": source},
            "quantize": {"tuning": {"seconds": tuning} if tuning else None},
        },
        metrics={"seconds": evaluate, "processes": processes},
    )


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({}, "pass"),
        ({"calibrate": 11.0}, "fail"),
        ({"tuning": 4.0}, "pass"),
        ({"tuning": 6.0}, "fail"),
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
