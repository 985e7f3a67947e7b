"""The audit reaches the right verdict, by mechanism, and says so when it is lied to."""

import hashlib
import itertools
import json
import zipfile

import numpy as np
import pytest

from stages.audit.checks import normalization
from stages.audit.evidence import positions
from stages.lib import artifact
from tests.conftest import run_node, write_lock


def certificate(root, run):
    return json.loads((root / f"artifacts/audit/{run}/certificate.json").read_text())


@pytest.mark.parametrize("run", ["sliding", "causal_slot"])
def test_honest_evaluator_is_certified(finished, run):
    written = certificate(finished, run)
    verdicts = {name: check["verdict"] for name, check in written["checks"].items()}
    assert written["legal"] is True and written["evaluator"] == run
    assert verdicts == {"byte_count": "pass", "causality": "pass", "normalization": "pass", "lineage": "pass"}
    evidence = written["checks"]["causality"]["evidence"]
    assert evidence["earlier_scores_compared"] > 500 and evidence["largest_change_nats"] == 0.0


def test_slot_is_refused_because_it_is_not_causal(finished):
    written = certificate(finished, "slot")
    assert written["legal"] is False and written["checks"]["causality"]["verdict"] == "fail"
    assert written["checks"]["causality"]["evidence"]["earlier_scores_changed"] > 100
    assert [n for n, c in written["checks"].items() if c["verdict"] == "fail"] == ["causality"]


def lying_artifact(project, replace, by, module="evaluators/sliding.py"):
    """Change one line of a module inside the packed artifact, and make the metrics agree with the new file."""
    path = project / "artifacts/package/submission.pyz"
    with zipfile.ZipFile(path) as archive:
        contents = {entry: archive.read(entry.filename) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in contents.items():
            if entry.filename == f"caddie/{module}":
                assert replace in data.decode()
                data = data.decode().replace(replace, by).encode()
            archive.writestr(entry, data)
    write_lock(project)
    run_node("evaluate", "sliding")
    run_node("audit", "sliding")
    return certificate(project, "sliding")


def test_evaluator_that_peeks_at_its_own_target_is_caught(project):
    written = lying_artifact(
        project, "        return self.model.head(hidden_RD)",
        "        logits = self.model.head(hidden_RD)\n"
        "        logits[torch.arange(len(logits)), seen[chunk[0].first: chunk[-1].last + 1]] += 0.5\n        return logits")
    assert not written["legal"] and written["checks"]["causality"]["evidence"]["rows_changed"] > 0


def test_evaluator_that_uses_statistics_of_its_future_is_caught(project):
    written = lying_artifact(
        project, "        return self.model.head(hidden_RD)",
        "        counts = torch.bincount(seen[1:], minlength=self.model.config.vocabulary_size)\n"
        "        return self.model.head(hidden_RD) + 0.1 * torch.log1p(counts)")
    assert not written["legal"] and written["checks"]["causality"]["evidence"]["earlier_scores_changed"] > 0


def test_harness_that_does_not_normalize_is_caught(project):
    written = lying_artifact(project, "logits_RV - torch.logsumexp(logits_RV, dim=-1, keepdim=True)",
                             "logits_RV - 0.9 * torch.logsumexp(logits_RV, dim=-1, keepdim=True)", module="harness.py")
    assert not written["legal"] and written["checks"]["normalization"]["verdict"] == "fail"


def test_score_that_is_no_entry_of_its_row_is_caught(project):
    written = lying_artifact(project, "-logp_RV.gather(1, targets_R[:, None])[:, 0].cpu().numpy()",
                             "-0.9 * logp_RV.gather(1, targets_R[:, None])[:, 0].cpu().numpy()", module="harness.py")
    assert not written["legal"] and written["checks"]["normalization"]["evidence"]["largest_mismatch_nats"] > 0.01


@pytest.mark.parametrize("path", ["artifacts/package/submission.pyz", "artifacts/evaluate/sliding/ledger.npy"])
def test_file_changed_after_evaluation_is_refused_by_hash(project, capsys, path):
    (project / path).write_bytes((project / path).read_bytes() + b"\0")
    with pytest.raises(SystemExit):
        run_node("audit", "sliding")
    assert "sha256 differs" in capsys.readouterr().err


@pytest.mark.parametrize("change", [
    lambda m: m | {"bits_per_byte": m["bits_per_byte"] * 0.99}, lambda m: m | {"bytes": m["bytes"] + 1}, lambda m: m | {"tokens": 5}])
def test_edited_metrics_fail_the_byte_count(project, change):
    path = project / "artifacts/evaluate/sliding/metrics.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    run_node("audit", "sliding")
    written = certificate(project, "sliding")
    assert not written["legal"] and written["checks"]["byte_count"]["verdict"] == "fail"


def test_documents_of_another_length_are_named(project):
    path = project / "artifacts/prepare/val/documents.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = json.dumps({"text": json.loads(lines[1])["text"] + "!"})
    path.write_text("\n".join(lines) + "\n")
    run_node("audit", "sliding")
    check = certificate(project, "sliding")["checks"]["byte_count"]
    assert check["verdict"] == "fail" and check["evidence"]["first_document_of_other_length"] == 1


def test_without_a_lock_file_nothing_is_certified(project):
    (project / "dvc.lock").unlink()
    run_node("audit", "sliding")
    written = certificate(project, "sliding")
    assert written["legal"] is False and written["checks"]["lineage"]["verdict"] == "not_applicable"


def test_unreadable_lock_file_is_a_sentence(project, capsys):
    for content in ("", "stages: [", "a: 1"):
        (project / "dvc.lock").write_text(content)
        with pytest.raises(SystemExit):
            run_node("audit", "sliding")
        assert "not a readable dvc.lock" in capsys.readouterr().err


def test_tokens_that_do_not_spell_the_text_are_caught(project):
    """Same bytes per document, other order: easier to predict, and not the text."""
    from stages.runtime import shards
    folder = project / "artifacts/tokenize/val"
    tokens, sizes = (np.array(shards.read(folder / f"fineweb_val_{name}000000.bin")) for name in ("", "bytes_"))
    starts = [*np.flatnonzero(tokens == 1), len(tokens)]
    for start, stop in itertools.pairwise(starts):
        order = start + 1 + np.argsort(tokens[start + 1: stop], kind="stable")
        tokens[start + 1: stop], sizes[start + 1: stop] = tokens[order], sizes[order]
    shards.write(folder / "fineweb_val_000000.bin", tokens)
    shards.write(folder / "fineweb_val_bytes_000000.bin", sizes)
    run_node("evaluate", "sliding")
    run_node("audit", "sliding")
    check = certificate(project, "sliding")["checks"]["byte_count"]
    assert check["verdict"] == "fail" and check["evidence"]["first_document_of_other_text"] == 0


def test_report_refuses_a_certificate_of_another_score(project, tree, capsys):
    tree({"evaluate.runs.sliding.evaluator": "slot", "evaluate.runs.sliding.options": {
        "window": 64, "stride": 32, "batch": 32, "learning_rate": 0.1, "steps": 3}})
    run_node("evaluate", "sliding")
    with pytest.raises(SystemExit):
        run_node("report")
    assert "certifies another score" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 3, 8])
def test_flips_cover_the_edges_of_batches_and_the_interior(count):
    found = positions(2600, {"window": 128, "stride": 64, "batch": 32}, count, np.random.default_rng(0))
    assert len(found) == len(set(found)) == count and all(2 <= p < 2600 for p in found)
    if count >= 3:
        assert 128 + 31 * 64 + 1 in found


def test_normalization_looks_at_what_it_is_given():
    row = np.log(np.full(4, 0.25))
    result = artifact.Result({}, -row[:1], {1: row})

    class Evidence:
        probes = (result,)
        text = type("Text", (), {"tokens": np.array([0, 2]), "vocabulary_size": 4})
    assert normalization.check(Evidence).verdict == "pass"
    Evidence.probes = (artifact.Result({}, -row[:1], {1: row + 0.01}),)
    assert normalization.check(Evidence).verdict == "fail"
    Evidence.probes = (artifact.Result({}, -row[:1], {1: row[:3]}),)
    assert normalization.check(Evidence).verdict == "fail"


def test_certificate_names_the_artifact_by_hash(finished):
    digest = hashlib.sha256((finished / "artifacts/package/submission.pyz").read_bytes()).hexdigest()
    assert certificate(finished, "sliding")["artifact_sha256"] == digest
