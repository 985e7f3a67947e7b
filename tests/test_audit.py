"""The audit reaches the right verdict, by mechanism, and says so when it is lied to."""

import hashlib
import itertools
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stages.audit import __main__ as stage_audit
from stages.audit import bound
from stages.audit.evidence import Verdict
from stages.lib.node import files
from tests.conftest import ROOT, run_node, write_lock


def certificate(root, run):
    return json.loads((root / f"artifacts/audit/{run}/certificate.json").read_text())


BEHAVIOUR = {"claim", "documents_apart", "replay", "round_trip", "withheld"}


def failed(written):
    return {name for name, check in written["checks"].items() if check["verdict"] == "fail"}


@pytest.mark.parametrize("run", ["sliding", "causal_slot"])
def test_honest_evaluator_is_certified(finished, run):
    written = certificate(finished, run)
    verdicts = {name: check["verdict"] for name, check in written["checks"].items()}
    assert written["verdict"] == "legal" and written["legal"] is True and written["evaluator"] == run
    assert set(verdicts) >= BEHAVIOUR | {"byte_count", "lineage"} and set(verdicts.values()) <= {"pass", "reported"}
    replayed, trip = (written["checks"][name]["evidence"] for name in ("replay", "round_trip"))
    assert replayed["drawn"] == 200 and 150 < replayed["replayed"] <= 200 and replayed["off"] == 0 and not replayed["ended_early"]
    assert replayed["drawn_from_the_first"] == replayed["of_targets"] and replayed["last"] > 0.8 * replayed["of_targets"]
    assert trip["tokens"] == 64 and trip["tokens_wrong"] == 0 and trip["bits"] <= trip["allowed"]
    assert all(check[key] for check in written["checks"].values() for key in ("proves", "cannot_see", "precedent"))


def test_certificate_says_the_most_that_the_score_can_be_and_how_it_was_audited(finished):
    """X is above the claim by what 200 positions leave open, and a bit more than the claim where nothing differs."""
    written = certificate(finished, "sliding")
    metrics = json.loads((finished / "artifacts/evaluate/sliding/metrics.json").read_text())
    nats, lid = np.load(finished / "artifacts/evaluate/sliding/ledger.npy"), bound.floor(200, 384)
    claimed = lid.under(nats)
    same = claimed.sum() + (lid.most_nats - claimed).sum() * bound.mean_limit(np.zeros(200))
    most = (same / math.log(2) + bound.LENGTH_BITS) / metrics["bytes"]
    assert written["bits_per_byte"] < written["at_most_bits_per_byte"] == pytest.approx(most, abs=1e-3)
    assert written["at_most_bits_per_byte"] == written["checks"]["replay"]["evidence"]["at_most_bits_per_byte"]
    assert written["confidence"] == 0.99 and written["referee"] == {"protocol": 2, "jail": metrics["jail"]}
    assert len(written["drawn"]) == 4 and all(0 <= number < 2**32 for number in written["drawn"])
    drawn = [certificate(finished, run)["drawn"] for run in ("sliding", "slot", "causal_slot")]
    assert drawn[0] != drawn[1] != drawn[2], "every audit draws anew"


def test_slot_is_refused_because_it_knows_what_it_scores(finished):
    written = certificate(finished, "slot")
    assert written["verdict"] == "not legal" and written["legal"] is False
    assert "withheld" in failed(written) <= BEHAVIOUR | {"memorization"}  # it knows what it scores of holdout too
    found = written["checks"]["withheld"]["evidence"]
    assert found["positions"] == 12 and found["moved"] > 6 and found["largest_difference_nats"] > 1e-5


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
        monkeypatch.setattr(stage_audit, "_most_bits", lambda evidence, verdicts: None)  # it follows from the replay

    return choose


@pytest.mark.slow
def test_documents_at_once_are_certified_and_their_shares_are_the_same_in_processes_of_their_own(project, tree, monkeypatch):
    """Packed, in jails: claims in the coding order, two shares in one process and in two, and an audit of the whole."""
    lora = {"window": 64, "chunk": 16, "rank": 2, "alpha": 4.0, "targets": ["value", "head"], "learning_rate": 0.003}
    lora |= {"beta1": 0.0, "beta2": 0.99, "weight_decay": 0.1, "reset_at": 1, "seed": 0, "slots": 3, "shares": 2, "warm": True}
    tree({"package.evaluators": ["ttt_lora"], "package.evaluator": "ttt_lora", "package.options": lora})
    tree({"evaluate.runs.sliding.evaluator": "ttt_lora", "evaluate.runs.sliding.options": lora})
    run_node("package")
    ledgers, processes = [], []
    for workers in ("2", "4"):
        monkeypatch.setenv("CADDIE_WORKERS", workers)
        write_lock(project)
        run_node("evaluate", "sliding")
        ledgers.append(np.load("artifacts/evaluate/sliding/ledger.npy"))
        processes.append(json.loads(Path("artifacts/evaluate/sliding/metrics.json").read_text())["processes"])
    assert processes == [1, 2] and np.array_equal(*ledgers)
    run_node("audit", "sliding")
    written = certificate(project, "sliding")
    assert failed(written) == set() and written["verdict"] == "legal", written["checks"]
    assert set(written["claims"]) == {"causal", "score_first", "single_pass", "uses_length"}


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
def test_packed_evaluator_that_looks_beyond_its_own_file_finds_nothing_and_is_refused_for_its_target(project):
    """It reads val by its absolute path, keeps a cache for the next run, asks /proc and the network, and looks at its target meanwhile."""
    val = project / "artifacts/tokenize/val/fineweb_val_000000.bin"
    written = lying_artifact(
        project,
        "        return self.model.head(hidden_RD)",
        f"""        logits = self.model.head(hidden_RD)
        import os, socket, subprocess
        for attempt in (lambda: open({str(val)!r}, "rb").read(), lambda: open("/tmp/caddie-cache", "a"),
                        lambda: subprocess.run(["cat", {str(val)!r}]), lambda: open("/proc/{os.getpid()}/environ").read(),
                        lambda: socket.create_connection(("127.0.0.1", 9), 1)):
            try:
                attempt()
                logits = logits + float("nan")
            except OSError:
                pass
        logits[torch.arange(len(logits)), seen[chunk[0].first: chunk[-1].last + 1]] += 0.5
        return logits""",
    )
    assert written["verdict"] == "not legal" and {"withheld", "replay"} <= failed(written)
    assert written["at_most_bits_per_byte"] is None and written["checks"]["claim"]["verdict"] == "pass"


@pytest.mark.slow
def test_artifact_that_fails_when_it_is_replayed_fails_the_checks_and_not_the_audit(project):
    """It answers claims, and breaks down token by token."""
    written = lying_artifact(
        project,
        "    def dist(self)",
        "    def dist(self):\n        raise ValueError('no')\n\n    def never(self)",
        module="scoring/streaming.py",
    )
    assert written["verdict"] == "not legal" and {"replay", "round_trip", "withheld"} <= failed(written)
    assert written["checks"]["replay"]["evidence"]["reason"] == "submission.pyz ended: no"
    assert written["at_most_bits_per_byte"] is None


def claiming(project, cost):
    return lying_artifact(
        project, 'answer(struct.pack("<I", first)', f'nats = np.array(nats); {cost}; answer(struct.pack("<I", first)', module="serve.py"
    )


@pytest.mark.slow
def test_claim_below_nothing_is_not_legal(project):
    written = claiming(project, "nats[3] = -0.5")
    found = written["checks"]["claim"]
    assert written["verdict"] == "not legal" and found["verdict"] == "fail" and found["evidence"]["least_nats"] == -0.5
    assert 4 in found["evidence"]["impossible_at"] and "is claimed to cost -0.5 nats" in found["evidence"]["reason"]


@pytest.mark.slow
def test_claim_that_is_no_number_is_no_score(project, capsys):
    with pytest.raises(SystemExit):
        claiming(project, "nats[:] = float('nan')")
    assert "claims nan nats for target 1; there is no score to write" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["artifacts/package/submission.pyz", "artifacts/evaluate/sliding/ledger.npy"])
def test_file_changed_after_evaluation_is_refused_by_hash(project, capsys, path):
    (project / path).write_bytes((project / path).read_bytes() + b"\0")
    with pytest.raises(SystemExit):
        run_node("audit", "sliding")
    assert "sha256 differs" in capsys.readouterr().err


@pytest.mark.parametrize("change", [lambda nats: nats[:-1], lambda nats: nats.astype(np.float32), lambda nats: nats[None]])
def test_ledger_that_is_no_number_for_each_target_is_one_sentence(project, capsys, change):
    ledger, metrics = (project / "artifacts/evaluate/sliding" / name for name in ("ledger.npy", "metrics.json"))
    np.save(ledger, change(np.load(ledger)))
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"ledger_sha256": files.sha256(ledger)}))
    with pytest.raises(SystemExit):
        run_node("audit", "sliding")
    assert "does not hold one number for each of the" in capsys.readouterr().err


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_certificate_names_the_artifact_by_hash(finished):
    digest = hashlib.sha256((finished / "artifacts/package/submission.pyz").read_bytes()).hexdigest()
    assert certificate(finished, "sliding")["artifact_sha256"] == digest
