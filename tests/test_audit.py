"""The audit reaches the right verdict, by mechanism, and says so when it is lied to."""

import hashlib
import itertools
import json
import zipfile

import numpy as np
import pytest

from stages.audit import __main__ as stage_audit
from stages.audit import power, probes, replay
from stages.audit.checks import normalization
from stages.audit.evidence import Verdict
from stages.lib.referee import artifact
from tests.conftest import ROOT, run_node, write_lock


def certificate(root, run):
    return json.loads((root / f"artifacts/audit/{run}/certificate.json").read_text())


BEHAVIOUR = {
    "black_box_sum",
    "declared_length",
    "documents_apart",
    "future_flip",
    "normalization",
    "order",
    "prefix_truncation",
    "rerun",
    "round_trip",
    "streaming_equals_batch",
    "target_flip",
    "world_size",
}


def failed(written):
    return {name for name, check in written["checks"].items() if check["verdict"] == "fail"}


@pytest.mark.parametrize("run", ["sliding", "causal_slot"])
def test_honest_evaluator_is_certified(finished, run):
    written = certificate(finished, run)
    verdicts = {name: check["verdict"] for name, check in written["checks"].items()}
    assert written["verdict"] == "legal" and written["legal"] is True and written["evaluator"] == run
    assert set(verdicts) >= BEHAVIOUR | {"byte_count", "lineage"} and set(verdicts.values()) <= {"pass", "reported"}
    flips, trip = (written["checks"][name]["evidence"] for name in ("future_flip", "round_trip"))
    assert flips["earlier_scores_compared"] > 500 and flips["largest_change_nats"] == 0.0
    assert trip["tokens_decoded"] == trip["tokens"] > 50 and trip["tokens_wrong"] == 0
    assert all(check[key] for check in written["checks"].values() for key in ("proves", "cannot_see", "precedent"))


def test_slot_is_refused_because_it_knows_what_it_scores(finished):
    written = certificate(finished, "slot")
    assert written["verdict"] == "not legal" and written["legal"] is False
    assert {"future_flip", "prefix_truncation", "streaming_equals_batch", "round_trip"} <= failed(written) <= BEHAVIOUR
    assert written["checks"]["future_flip"]["evidence"]["earlier_scores_changed"] > 100
    assert written["checks"]["streaming_equals_batch"]["evidence"]["mean_excess_nats"] > 0


@pytest.mark.parametrize(
    "verdicts, expected",
    [(["pass", "pass"], "legal"), (["pass", "not_applicable"], "not ruled"), (["not_applicable", "fail"], "not legal")],
)
def test_score_is_legal_if_all_pass_and_not_ruled_if_something_could_not_be_looked_at(verdicts, expected):
    assert stage_audit.verdict({str(i): Verdict(verdict, {}) for i, verdict in enumerate(verdicts)}) == expected


@pytest.fixture
def only(monkeypatch):
    """Let the audit run no other check than these, and so no process of the artifact."""

    def choose(*names):
        monkeypatch.setattr(stage_audit, "checks", lambda: list(names))

    return choose


def lying_artifact(project, replace, by, module="scoring/evaluators/sliding.py"):
    """Put a module with one line changed into the packed artifact, and make the metrics agree with the new file."""
    source = (ROOT / "stages/runtime" / module).read_text(encoding="utf-8")
    assert replace in source
    path = project / "artifacts/package/submission.pyz"
    with zipfile.ZipFile(path) as archive:
        contents = {entry: archive.read(entry.filename) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in contents.items():
            archive.writestr(entry, source.replace(replace, by) if entry.filename == f"caddie/{module}" else data)
    write_lock(project)
    run_node("evaluate", "sliding")
    run_node("audit", "sliding")
    return certificate(project, "sliding")


@pytest.mark.slow
def test_packed_evaluator_that_looks_beyond_its_own_file_is_refused_and_told_on(project):
    """It reads val by its absolute path, keeps a cache for the next run, asks /proc and the network, and looks at its target meanwhile."""
    val = project / "artifacts/tokenize/val/fineweb_val_000000.bin"
    written = lying_artifact(
        project,
        "        return self.model.head(hidden_RD)",
        f"""        logits = self.model.head(hidden_RD)
        import os, socket
        for attempt in (lambda: open({str(val)!r}, "rb").read(), lambda: open("/tmp/caddie-cache", "a"), lambda: os.system("true"),
                        lambda: open("/proc/%d/environ" % os.getppid()).read(), lambda: socket.socket().connect(("localhost", 9))):
            try:
                attempt()
                logits = logits + float("nan")
            except PermissionError:
                pass
        logits[torch.arange(len(logits)), seen[chunk[0].first: chunk[-1].last + 1]] += 0.5
        return logits""",
    )
    refused = json.loads((project / "artifacts/evaluate/sliding/metrics.json").read_text())["refused"]
    assert [what.split()[0] for what in refused] == ["open", "open", "os.system", "open", "socket.__new__"] and str(val) in refused[0]
    assert written["verdict"] == "not legal" and {"target_flip", "streaming_equals_batch", "round_trip"} <= failed(written)


@pytest.mark.slow
def test_artifact_that_fails_when_it_is_probed_fails_the_checks_and_not_the_audit(project):
    written = lying_artifact(
        project,
        "    stream = torch.from_numpy",
        "    if len(tokens) - 1 != declared:\n        raise ValueError('no')\n    stream = torch.from_numpy",
        module="scoring/harness.py",
    )
    assert written["verdict"] == "not legal" and {"future_flip", "order", "rerun"} <= failed(written)
    assert "failed under probes with sliding: no" in written["checks"]["rerun"]["evidence"]["reason"]


@pytest.mark.parametrize("path", ["artifacts/package/submission.pyz", "artifacts/evaluate/sliding/ledger.npy"])
def test_file_changed_after_evaluation_is_refused_by_hash(project, capsys, path):
    (project / path).write_bytes((project / path).read_bytes() + b"\0")
    with pytest.raises(SystemExit):
        run_node("audit", "sliding")
    assert "sha256 differs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [lambda m: m | {"bits_per_byte": m["bits_per_byte"] * 0.99}, lambda m: m | {"bytes": m["bytes"] + 1}, lambda m: m | {"tokens": 5}],
)
def test_edited_metrics_fail_the_byte_count(project, only, change):
    only("byte_count")
    path = project / "artifacts/evaluate/sliding/metrics.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    run_node("audit", "sliding")
    written = certificate(project, "sliding")
    assert not written["legal"] and written["checks"]["byte_count"]["verdict"] == "fail"


def test_documents_of_another_length_are_named(project, only):
    only("byte_count")
    path = project / "artifacts/prepare/val/documents.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = json.dumps({"text": json.loads(lines[1])["text"] + "!"})
    path.write_text("\n".join(lines) + "\n")
    run_node("audit", "sliding")
    check = certificate(project, "sliding")["checks"]["byte_count"]
    assert check["verdict"] == "fail" and check["evidence"]["first_document_of_other_length"] == 1


def test_without_a_lock_file_nothing_is_certified(project, only):
    only("byte_count", "lineage")
    (project / "dvc.lock").unlink()
    run_node("audit", "sliding")
    written = certificate(project, "sliding")
    assert written["verdict"] == "not ruled" and written["checks"]["lineage"]["verdict"] == "not_applicable"


def test_unreadable_lock_file_is_a_sentence(project, capsys, only):
    only("lineage")
    for content in ("", "stages: [", "a: 1"):
        (project / "dvc.lock").write_text(content)
        with pytest.raises(SystemExit):
            run_node("audit", "sliding")
        assert "not a readable dvc.lock" in capsys.readouterr().err


def test_tokens_that_do_not_spell_the_text_are_caught(project, only):
    """Same bytes per document, other order: easier to predict, and not the text."""
    from stages.runtime.tokens import shards

    only("byte_count")
    folder = project / "artifacts/tokenize/val"
    tokens, sizes = (np.array(shards.read(folder / f"fineweb_val_{name}000000.bin")) for name in ("", "bytes_"))
    starts = [*np.flatnonzero(tokens == 1), len(tokens)]
    for start, stop in itertools.pairwise(starts):
        order = start + 1 + np.argsort(tokens[start + 1 : stop], kind="stable")
        tokens[start + 1 : stop], sizes[start + 1 : stop] = tokens[order], sizes[order]
    shards.write(folder / "fineweb_val_000000.bin", tokens)
    shards.write(folder / "fineweb_val_bytes_000000.bin", sizes)
    run_node("evaluate", "sliding")
    run_node("audit", "sliding")
    check = certificate(project, "sliding")["checks"]["byte_count"]
    assert check["verdict"] == "fail" and check["evidence"]["first_document_of_other_text"] == 0


def test_report_refuses_a_certificate_of_another_score(project, tree, capsys):
    tree(
        {
            "evaluate.runs.sliding.evaluator": "slot",
            "evaluate.runs.sliding.options": {"window": 64, "stride": 32, "batch": 32, "learning_rate": 0.1, "steps": 3},
        }
    )
    run_node("evaluate", "sliding")
    with pytest.raises(SystemExit):
        run_node("report")
    assert "certifies another score" in capsys.readouterr().err


def commits(num_targets, *, window=128, stride=64, batch=32):
    firsts = np.array([1, *range(window + 1, num_targets + 1, stride)])
    return np.stack([firsts, np.append(firsts[1:] - 1, num_targets), np.arange(len(firsts)) // batch], axis=1)


@pytest.mark.parametrize("count", [1, 3, 8, 30])
def test_flips_take_turns_at_every_kind_of_edge(count):
    tokens = np.random.default_rng(0).integers(2, 50, 2601)
    tokens[[0, 700, 1900]] = 1
    kinds = probes.places(tokens, commits(2600))
    found = probes.choose(kinds, count, np.random.default_rng(0))
    assert len(dict(found)) == len(found) == count and all(2 <= position <= 2600 for position, _ in found)
    assert len({kind for _, kind in found}) == min(count, len(kinds))
    assert kinds["first target of a batch"].tolist() == [128 + 31 * 64 + 1] and kinds["start of a document"].tolist() == [700, 1900]
    if count == 30:
        assert {128 + 31 * 64 + 1, 700, 1900, 699, 1899, 701, 1901} <= dict(found).keys()


def test_changed_ids_are_never_the_same_ids():
    ids = np.array([0, 1, 48, 49] * 50)
    assert not (np.array(probes.other_ids(ids, 50, np.random.default_rng(3))) == ids).any()


def test_power_of_a_sample_is_the_binomials():
    generator = np.random.default_rng(0)
    hits = [(generator.random(60) < 0.05).any() for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(power.caught(0.05, 60), abs=0.02)
    assert power.needed(0.002) == 2301 and power.caught(0.002, 2301) >= 0.99 > power.caught(0.002, 2300)
    assert power.caught(power.found(1512), 1512) == pytest.approx(0.99) and power.found(0) == 1.0


def test_normalization_looks_at_what_it_is_given():
    row = np.log(np.full(4, 0.25))
    empty = np.zeros(0)

    class Evidence:
        tokens = np.array([0, 2])
        text = type("Text", (), {"vocabulary_size": 4})
        replay = replay.Replay(empty, empty, empty, b"", 0, "", True, np.array([0.0]), True, [], 1, (), None)

    for result, expected in ((row, "pass"), (row + 0.01, "fail"), (row[:3], "fail")):
        Evidence.probes = (artifact.Result({}, -row[:1], {1: result}),)
        assert normalization.check(Evidence).verdict == expected
    Evidence.probes = (artifact.Result({}, -row[:1], {1: row}),)
    Evidence.replay = replay.Replay(empty, empty, empty, b"", 0, "", True, np.array([0.01]), True, [], 1, (), None)
    assert normalization.check(Evidence).verdict == "fail"


def test_certificate_names_the_artifact_by_hash(finished):
    digest = hashlib.sha256((finished / "artifacts/package/submission.pyz").read_bytes()).hexdigest()
    assert certificate(finished, "sliding")["artifact_sha256"] == digest
