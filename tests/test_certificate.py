"""A certificate can be read by people, says what was done and what was not, and can be made of any experiment from DVC's cache."""

import copy
import hashlib
import html
import importlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from stages.audit import __main__ as audit
from stages.audit import certificate, documentation, graph, revision
from stages.lib.dvc import dvc_lock
from stages.lib.node import access_log, files
from stages.lib.node.stage import Input, Metrics, Output, Untracked, Variant
from tests.conftest import ROOT
from tests.report_tree import HOSTILE, Page


def facts(verdict="pass", *, positions=1500, deviation=0.0, **evidence):
    return {
        "verdict": verdict,
        "evidence": evidence or {"flips": 7, "moved": False, "at": [1, 2]},
        "positions": positions,
        "largest_deviation": deviation,
        "proves": "What it shows.",
        "cannot_see": "What it does not.",
        "precedent": "#1017, 28 Mar 2026",
    }


CERTIFICATE = {
    "run": "sliding",
    "evaluator": "sliding",
    "verdict": "legal",
    "legal": True,
    "claims": ["causal"],
    "bits_per_byte": 1.7324,
    "at_most_bits_per_byte": 1.7401,
    "confidence": 0.99,
    "drawn": [11, 22, 33, 44],
    "referee": {"protocol": 2, "jail": "bubblewrap"},
    "artifact_sha256": "a" * 64,
    "text_sha256": "b" * 64,
    "precision": "float32",
    "significance": "one seed: nothing can be said",
    "checks": {
        "replay": facts(),
        "claim": facts(deviation=6.7e-16),
        "round_trip": facts(),
        "byte_count": facts(),
        "lineage": facts(positions=None, deviation=None),
        "self_contained": facts(),
        "budgets": facts("reported", reason="not eight H100"),
        "new_one": facts(),
    },
}


def changed(**checks):
    found = copy.deepcopy(CERTIFICATE)
    found["checks"] |= checks
    verdicts = {check["verdict"] for check in found["checks"].values()}
    found["verdict"] = "not legal" if "fail" in verdicts else "not ruled" if "not_applicable" in verdicts else "legal"
    return found


def test_page_names_every_check_under_its_condition_with_what_it_cannot_see():
    page = certificate.html(CERTIFICATE)
    sections = {re.search(r"<h2>(\w+)", part)[1]: part for part in page.split('<section class="card">')[1:]}
    assert list(sections) == ["C1", "C2", "C3", "C4", "Rules"]
    assert "replay" in sections["C1"] and "lineage" in sections["C1"] and "claim" in sections["C2"]
    assert "round trip" in sections["C3"] and "byte count" in sections["C4"]
    assert "new one" in sections["Rules"] and "not eight H100" in sections["Rules"]  # a new check needs no change here
    assert page.count("What it does not.") == len(CERTIFICATE["checks"]) and page.count("#1017, 28 Mar 2026") == len(CERTIFICATE["checks"])
    assert "C1 pass, C2 pass, C3 pass, C4 pass, Rules pass" in page and "C1 pass, C2 pass" in certificate.markdown(CERTIFICATE)
    assert "1,500 positions" in page and "6.7e-16" in page and "one seed: nothing can be said" in page and "a" * 64 in page


def test_page_is_one_file_without_script_or_network():
    page = certificate.html(CERTIFICATE)
    assert page.startswith("<!DOCTYPE html>") and not any(word in page for word in ("<script", "http:", "https:", "src=", "@import"))
    assert re.findall("<link[^>]*>", page) == ['<link rel="icon" href="data:,">'] and "default-src 'none'" in page
    assert "color-scheme: light dark" in page and "@media print" in page and "max-width: 560px" in page
    assert Page(page).problems == []


@pytest.mark.parametrize(
    "checks, verdict, word",
    [
        ({}, "legal", "Every check passed"),
        ({"claim": facts("fail", reason="scored twice")}, "not legal", "scored twice"),
        ({"lineage": facts("not_applicable", reason="no dvc.lock")}, "not ruled", "no dvc.lock"),
        ({"lineage": facts("not_applicable", reason="x"), "claim": facts("fail", reason="y")}, "not legal", "y"),
    ],
)
def test_verdict_stands_in_both_forms_with_its_reason(checks, verdict, word):
    found = changed(**checks)
    for text in (certificate.html(found), certificate.markdown(found)):
        assert f"{verdict}" in text and word in text


def test_condition_is_as_good_as_its_worst_check():
    assert [
        certificate.condition([("x", facts(verdict)) for verdict in verdicts])
        for verdicts in (["pass", "fail"], ["pass", "not_applicable"], ["reported", "pass"], ["reported"])
    ] == ["fail", "not_applicable", "pass", "reported"]


def test_nothing_from_an_artifact_is_taken_for_markup():
    found = changed(claim=facts("fail", reason="<img src=x onerror=alert(1)> | `x`", note="<b>"))
    page, text = certificate.html(found), certificate.markdown(found)
    assert "<img" not in page and "<b>" not in page and "<img" not in text
    assert html.escape("<img src=x") in page
    hostile = changed(**{"<i>check": facts("<u>odd", reason='"&<s>', **{"<p>": "</main>"})}) | {
        "run": HOSTILE,
        "evaluator": HOSTILE,
        "claims": ["<em>"],
        "significance": "</dd>",
    }
    page = Page(certificate.html(hostile))
    assert page.problems == [] and page.text.count(HOSTILE) >= 2 and "<u>odd" in page.text and '"&<s>' in page.text


def test_every_check_that_there_is_has_a_place_and_three_sentences():
    placed = [name for _, _, members in certificate.CONDITIONS.values() for name in members]
    assert len(placed) == len(set(placed)) and set(placed) <= set(audit.checks())
    for name in audit.checks():
        module = importlib.import_module(f"stages.audit.checks.{name}")
        for sentence in (module.PROVES, module.CANNOT_SEE, module.PRECEDENT):
            assert sentence and len(sentence) > 3, name


def test_page_of_the_tiny_pipeline_is_that_of_its_json(finished):
    folder = finished / "artifacts/audit/sliding"
    written = json.loads((folder / "certificate.json").read_text())
    assert (folder / "certificate.html").read_text() == certificate.html(written)
    assert (folder / "certificate.md").read_text() == certificate.markdown(written)
    assert "nothing can be said" in written["significance"]


def test_page_of_the_documentation_has_the_sentences_of_the_checks():
    text = documentation.PAGE.read_text()
    assert documentation.page(text) == text, "run: python -m stages.audit.documentation --write"
    with pytest.raises(ValueError, match="no lines"):
        documentation.page("no table")


def test_certified_limit_stands_before_the_claim_with_what_the_audit_drew():
    for text in (certificate.html(CERTIFICATE), certificate.markdown(CERTIFICATE)):
        assert "at most 1.740100 bits per byte with 99% confidence; 1.732400 are claimed" in text
        assert "protocol 2, jail bubblewrap" in text and "[11, 22, 33, 44], after the claim was fixed" in text
    none = CERTIFICATE | {"at_most_bits_per_byte": None}
    assert "no limit is certified; 1.732400 are claimed" in certificate.markdown(none)


# of an experiment


@dataclass(frozen=True)
class Run:
    SECTION: ClassVar[str] = "evaluate.runs.{variant}"
    evaluator: str
    options: dict


def main(
    run: Variant,
    settings,
    evaluated: Run,
    package,
    *,
    submission: Input = "artifacts/package/submission.pyz",
    text: Input = "artifacts/tokenize/val",
    metrics: Input = "artifacts/evaluate/{variant}/metrics.json",
    certificate: Metrics = "artifacts/audit/{variant}/certificate.json",
    page: Output = "artifacts/audit/{variant}/certificate.html",
    lock: Untracked = "dvc.lock",
) -> None:
    """In the place of the audit: says what it was given."""
    stages = dvc_lock.read(lock)
    files.write_json(
        certificate,
        {
            "verdict": "legal",
            "bits_per_byte": json.loads(metrics.read_text())["bits_per_byte"],
            "options": evaluated.options,
            "submission": submission.read_text(),
            "files": sorted(path.name for path in text.iterdir()),
            "run": run,
            "record": graph.record(stages, "package", Path("."))[0],
        },
    )


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git and DVC repository whose commit `first` has a dvc.lock, with the files in the cache and none in the workspace."""
    root = tmp_path / "repository"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("")
    monkeypatch.chdir(root)
    for name, value in {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}.items():
        monkeypatch.setenv(name, value)

    def cached(content: bytes, suffix=""):
        md5 = hashlib.md5(content).hexdigest() + suffix
        path = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return md5

    def commit(score, learning_rate):
        listing = [{"md5": cached(name.encode()), "relpath": name} for name in ("a.bin", "b.bin")]
        outs = {
            "package": {
                "artifacts/package/submission.pyz": cached(b"artifact"),
                "artifacts/package/opened.json": cached(b'["artifacts/quantize/model.safetensors"]'),
            },
            "tokenize@val": {"artifacts/tokenize/val": cached(json.dumps(listing).encode(), ".dir")},
            "evaluate@sliding": {
                "artifacts/evaluate/sliding/metrics.json": cached(json.dumps({"bits_per_byte": score, "loss_nats": 1.8 * score}).encode())
            },
        }
        stages = {name: {"deps": [], "outs": [{"path": path, "md5": md5} for path, md5 in entry.items()]} for name, entry in outs.items()}
        (root / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
        (root / "params.yaml").write_text(
            yaml.safe_dump(
                {
                    **{name: yaml.safe_load((ROOT / "params.yaml").read_text())[name] for name in ("audit", "package")},
                    "evaluate": {"runs": {"sliding": {"evaluator": "sliding", "options": {"learning_rate": learning_rate}}}},
                }
            )
        )
        for command in (["add", "dvc.lock", "params.yaml"], ["commit", "-qm", "x"]):
            subprocess.run(["git", *command], check=True)
        return subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "init", "-q"], check=True)
    for name, score in (("first", 1.00), ("second", 1.01), ("third", 1.02)):
        subprocess.run(["git", "update-ref", f"refs/exps/00/{'1' * 38}/{name}", commit(score, score / 10)], check=True)
    return root


def told(*argv):
    return revision.run(main, Run, list(argv))


def test_experiment_is_audited_from_the_cache_with_its_own_parameters(repository, tmp_path):
    assert told("--rev", "second", "--output", str(tmp_path / "kept")) == 0
    written = json.loads((tmp_path / "kept/second/sliding/certificate.json").read_text())
    assert written["bits_per_byte"] == 1.01 and written["options"] == {"learning_rate": 0.101} and written["submission"] == "artifact"
    assert written["files"] == ["a.bin", "b.bin"] and written["record"] == ["artifacts/quantize/model.safetensors"]
    assert not (repository / "artifacts").exists() and Path.cwd() == repository


def test_experiments_are_tested_against_a_record_together(repository, capsys):
    assert told("--rev", "first", "second", "third", "--record", "1.2") == 0
    out = capsys.readouterr().out
    assert "significant at 0.01" in out and "not significant" not in out and "mean 1.010000" in out
    told("--rev", "first", "--record", "1.2")
    assert "nothing can be said" in capsys.readouterr().out


def test_commit_is_audited_like_an_experiment(repository):
    assert told("--rev", "HEAD~1") == 0


@pytest.mark.parametrize(
    "argv, word",
    [
        (["--rev", "nobody"], "neither git nor DVC knows a revision 'nobody'"),
        (["--rev", "first", "--run", "slot"], "has no run 'slot'"),
        (["--rev", "first;rm -rf x"], "neither git nor DVC"),
    ],
)
def test_unknown_names_are_a_sentence(repository, capsys, argv, word):
    with pytest.raises(SystemExit):
        told(*argv)
    assert word in capsys.readouterr().err


def test_missing_or_damaged_files_of_the_cache_are_a_sentence(repository, capsys):
    path = next((repository / ".dvc/cache/files/md5").rglob(hashlib.md5(b"artifact").hexdigest()[2:]))
    path.write_bytes(b"other")
    with pytest.raises(SystemExit):
        told("--rev", "first")
    assert "not what its name says" in capsys.readouterr().err
    path.unlink()
    with pytest.raises(SystemExit):
        told("--rev", "first")
    assert "not in DVC's cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["../../x"], "lies outside"),
        (["/x"], "lies outside"),
        (["a/../../x"], "lies outside"),
        (["missing"], r"folder/missing .* is not in DVC's"),
        (None, "no list of files"),
    ],
)
def test_list_of_a_folder_is_checked(repository, tmp_path, names, sentence):
    content = json.dumps("x" if names is None else [{"md5": "0" * 32, "relpath": name} for name in names]).encode()
    with pytest.raises(ValueError, match=sentence):
        bring_folder(content, hashlib.md5(content).hexdigest(), repository, tmp_path)
    assert not (tmp_path / "x").exists()


def test_list_of_a_folder_that_was_changed_is_refused(repository, tmp_path):
    with pytest.raises(ValueError, match="not what its name says"):
        bring_folder(b"[]", "1" * 32, repository, tmp_path)


def bring_folder(content, md5, repository, tmp_path):
    """`revision.bring` for a folder with this list in the cache."""
    path = repository / ".dvc/cache/files/md5" / md5[:2] / f"{md5[2:]}.dir"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with revision._cache() as cache:
        revision.bring({"a": {"outs": [{"path": "folder", "md5": f"{md5}.dir"}]}}, "folder", cache, tmp_path / "root", required=True)


def test_cache_may_lie_elsewhere(repository, tmp_path):
    (repository / ".dvc/cache").rename(tmp_path / "elsewhere")
    (repository / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path / 'elsewhere'}\n")
    assert told("--rev", "first") == 0


def test_two_experiments_of_one_name_are_not_guessed_between(repository):
    commit = revision.resolved("HEAD", root=repository)
    subprocess.run(["git", "update-ref", f"refs/exps/33/{'4' * 38}/first", commit], check=True)
    with pytest.raises(ValueError, match="several experiments are called 'first'"):
        revision.resolved("first", root=repository)
    assert access_log.NAME == "opened.json" and os.path.exists(".git")
