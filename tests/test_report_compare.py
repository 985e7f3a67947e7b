"""Experiments side by side: revisions, DVC experiments and the workspace; what differs, and what makes a comparison unfair."""

import csv
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from stages.lib.node import files
from stages.report import compare
from stages.report.compare import Experiment
from tests.conftest import ROOT
from tests.report_tree import HOSTILE, Page, Tree

ENVIRONMENT = (
    os.environ | {"DVC_NO_ANALYTICS": "1"} | {f"GIT_{role}_{what}": "t@t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
)
PARAMS = {
    "train": {"seed": 1337, "steps": 240},
    "quantize": {"groups": {"mlp": {"clip": 12.85, "bits": 6}}},
    "package": {"evaluators": ["a"]},
}


def experiment(tmp_path, name="one", **changes) -> Experiment:
    """The fake run's summary, with other metrics, and parameters of its own."""
    written = Tree(tmp_path / name.replace("/", "_")).run()
    metrics = json.loads(written["metrics.json"]) | changes
    loss = pd.DataFrame({"step": range(1, 241), "train_loss": [9 - 0.02 * step for step in range(240)]})
    return Experiment(name, metrics, compare.flatten(PARAMS), loss)


def test_parameters_that_differ_are_listed_and_no_others(tmp_path):
    one = experiment(tmp_path)
    two = replace(one, name="two", params=one.params | {"quantize.groups.mlp.clip": 11.0, "new.leaf": [1, 2]})
    table = compare.tables([one, two])["params"]
    assert [tuple(row) for row in table.drop(columns="kind").itertuples(index=False)] == [
        ("quantize.groups.mlp.clip", 12.85, 11.0),
        ("new.leaf", None, [1, 2]),
    ]
    assert list(compare.written(table)["r1"]) == ["11.0", "[1, 2]"]


def test_scores_and_bytes_say_by_how_much_they_differ_from_the_first(tmp_path):
    one = experiment(tmp_path)
    two = replace(
        one,
        name="two",
        metrics=one.metrics
        | {
            "bits_per_byte.sliding": 1.35,
            "package.artifact_bytes": 4_000_000,
            "legal.x": None,
            "bits_per_byte.streaming": 1.3,
            "compress.lzma_9.blob_bytes": None,
        },
    )
    found = {name: compare.written(table).set_index("name") for name, table in compare.tables([one, two]).items()}
    assert found["scores"].loc["sliding", ["r0", "r1"]].tolist() == ["1.3691", f"1.3500 ({1.35 - 1.36905:+.4f})"]
    assert found["scores"].loc["streaming", ["r0", "r1"]].tolist() == ["-", "1.3000"]
    assert found["scores"].loc["slot, verdict", "r0"] == "not legal"
    assert found["overview"].loc["artifact, bytes", ["r0", "r1"]].tolist() == ["4,239,004", "4,000,000 (-239,004)"]
    assert found["bytes"].loc["lzma_9", ["r0", "r1"]].tolist() == ["4,198,772", "-"]


def test_page_and_csv_files_say_what_the_terminal_says(tmp_path):
    one = experiment(tmp_path)
    two = replace(one, name="two", metrics=one.metrics | {"bits_per_byte.sliding": 1.35}, params=one.params | {"train.seed": 7})
    text = compare.write([one, two], tmp_path / "out")
    html = (tmp_path / "out/index.html").read_text()
    page = Page(html)
    assert page.problems == [] and html.count("<svg") == 2 and "<script" not in html and len(page.ids) == len(set(page.ids))
    for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert ">one</text>" in drawing and ">two</text>" in drawing, "each experiment is in each figure"
    for expected in (f"1.3500 ({1.35 - 1.36905:+.4f})", "train.seed", "1337"):
        assert expected in text and expected in page.text
    assert {path.stem for path in (tmp_path / "out").glob("*.csv")} == set(compare.TITLES)
    rows = list(csv.DictReader((tmp_path / "out/params.csv").read_text().splitlines()))
    assert rows == [{"name": "train.seed", "one": "1337", "two": "7"}]
    assert compare.write([one, two], tmp_path / "again").replace("again", "out") == text
    assert (tmp_path / "again/index.html").read_text() == html


@pytest.mark.parametrize("equal, at", [("steps", 80), ("seconds", 160), ("tokens", 40)])
def test_losses_are_compared_where_both_had_spent_the_same(tmp_path, equal, at):
    """240 steps of 1 s and 8 tokens against 80 of 2 s (160 s) and 4 tokens: the second stops where the first has had `at` steps."""
    curve = lambda steps, start: pd.DataFrame(  # noqa: E731
        {
            "step": range(1, steps + 1),
            "train_loss": [start - 0.02 * step for step in range(1, steps + 1)],
            "holdout_bits_per_byte": [step / 100 if step % 40 == 0 else None for step in range(1, steps + 1)],
        }
    )
    base = experiment(tmp_path)
    one, two = (
        replace(
            base,
            name=name,
            loss=curve(steps, start),
            metrics=base.metrics | {"train.train_seconds": float(seconds), "train.steps": steps},
            params=base.params | {"train.batch_tokens": tokens},
        )
        for name, steps, start, seconds, tokens in (("one", 240, 9.0, 240, 8), ("two", 80, 8.0, 160, 4))
    )
    train, holdout = compare.losses([one, two], equal)[-2:]
    assert train[1:3] == pytest.approx((9 - 0.02 * (at - 9.5), 8 - 0.02 * (80 - 9.5))) and holdout[1:3] == (at / 100 // 0.4 * 0.4, 0.8)
    text = compare.write([one, two], tmp_path / "out", equal)
    assert f"Losses at equal {equal}" in text and train[0] in text
    assert f">{compare.UNITS[equal]}</text>" in (tmp_path / "out/index.html").read_text()


def test_comparison_that_is_not_fair_says_so(tmp_path):
    one = experiment(tmp_path)
    assert compare.warn([one, replace(one, name="two")]) == []
    other = replace(
        one, name="two", metrics=one.metrics | {"text.sha256.val": "0" * 64, "score.is_valid": False, "score.bits_per_byte": 1.3}
    )
    sentences = compare.warn([one, other])
    assert [sentence.split(":")[0] for sentence in sentences] == [
        "These experiments were scored on different val texts",
        "Not valid",
        "One seed each",
    ]
    assert all(sentence in compare.write([one, other], tmp_path / "out") for sentence in sentences)


def test_names_of_revisions_are_escaped(tmp_path):
    one, two = (replace(experiment(tmp_path), name=name) for name in (HOSTILE, "two"))
    compare.write([one, two], tmp_path / "out")
    html = (tmp_path / "out/index.html").read_text()
    assert Page(html).problems == [] and "<b>" not in html


@pytest.mark.parametrize("names", [["one"], ["one", "one"], [str(i) for i in range(13)]])
def test_one_revision_or_too_many_or_twice_the_same_are_refused(tmp_path, names):
    one = experiment(tmp_path)
    with pytest.raises(ValueError, match="--compare takes 2 to 12 different revisions"):
        compare.write([replace(one, name=name) for name in names], tmp_path / "out")


def git(root, *command):
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A committed run, an experiment, and a workspace: seeds 1, 2, 3. Results are in DVC's cache, params.yaml is in git."""
    root = tmp_path_factory.mktemp("repository")
    git(root, "git", "init", "-q", "-b", "main")
    git(root, "dvc", "init", "-q")
    (root / ".gitignore").write_text("/artifacts/\n")
    outs = [compare.SUMMARY, compare.LOSS]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"report": {"cmd": "true", "params": ["train"], "outs": outs}}}))
    for seed, command in ((1, "git commit -qm first"), (2, "dvc exp save -q -n second"), (3, None)):
        metrics = experiment(root / "trees", **{"train.seed": seed, "bits_per_byte.sliding": 1.37 - 0.01 * seed}).metrics
        files.write_json(root / compare.SUMMARY, metrics)
        (root / "artifacts/train").mkdir(exist_ok=True)
        (root / compare.LOSS).write_text(f"step,train_loss\n1,{seed}\n2,1\n")
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"train": {"seed": seed}}))
        if command:
            if seed == 1:
                git(root, "dvc", "commit", "-q", "-f")
            git(root, "git", "add", ".gitignore", "params.yaml", "dvc.yaml", "dvc.lock", ".dvc")
            git(root, *command.split())
    return root


@pytest.mark.dvc
def test_commits_experiments_and_the_workspace_are_read_with_their_own_results(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    compare.run(["--compare", "main", "second", "workspace", "--folder", "out"])
    said = capsys.readouterr().out
    assert "1.3600" in said and "1.3500 (-0.0100)" in said and "1.3400 (-0.0200)" in said
    rows = list(csv.DictReader((repository / "out/params.csv").read_text().splitlines()))
    assert rows == [{"name": "train.seed", "main": "1", "second": "2", "workspace": "3"}]
    assert [compare.read(name, root=repository).loss["train_loss"][0] for name in ("main", "workspace")] == [1, 3]


@pytest.mark.dvc
def test_commit_without_a_lock_has_the_results_of_the_experiment_that_ran_it_unchanged(repository, tmp_path, monkeypatch, capsys):
    """After `make repro` in a fresh clone: params.yaml is in git, dvc.lock is not."""
    root = tmp_path / "fresh"
    shutil.copytree(repository, root)
    git(root, "git", "rm", "-q", "--cached", "dvc.lock")
    git(root, "git", "commit", "-qm", "without results")  # of the params.yaml of seed 1; seed 3 lies in the folder
    monkeypatch.chdir(root)
    git(root, "dvc", "exp", "save", "-q", "-n", "changed")  # another params.yaml: not the commit's results
    with pytest.raises(ValueError, match=r"HEAD has no dvc.lock, and no experiment ran it unchanged.*make repro"):
        compare.read("HEAD", root=root)
    git(root, "git", "restore", "params.yaml")
    git(root, *repro_saves())
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"train": {"seed": 3}}))
    compare.run(["--compare", "HEAD", "workspace", "--folder", "out"])
    rows = list(csv.DictReader((root / "out/params.csv").read_text().splitlines()))
    assert rows == [{"name": "train.seed", "HEAD": "1", "workspace": "3"}] and "HEAD" in capsys.readouterr().out


def repro_saves() -> list[str]:
    """The command with which `make repro` saves its run."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^repro: setup\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    found = re.search(r"dvc exp save [^|;]*", recipe[recipe.index("\tdvc repro\n") :])
    return found[0].split()


@pytest.mark.dvc
def test_unknown_revision_and_results_that_are_not_here_are_one_sentence(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    with pytest.raises(SystemExit):
        compare.run(["--compare", "workspace", "nonsense"])
    assert "neither git nor DVC knows a revision 'nonsense'" in capsys.readouterr().err
    (repository / ".dvc/cache").rename(repository / ".dvc/elsewhere")
    try:
        with pytest.raises(ValueError, match=r"metrics.json of main is not here: .* try: dvc pull"):
            compare.read("main", root=repository)
    finally:
        (repository / ".dvc/elsewhere").rename(repository / ".dvc/cache")


def test_summary_of_other_code_is_refused(tmp_path):
    for path, text in ((compare.SUMMARY, '{"score.evaluator": "x"}'), (compare.PARAMS, "a: 1"), (compare.LOSS, "step,train_loss\n1,2\n")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    with pytest.raises(ValueError, match=r"of workspace has no score.bits_per_byte, .* written by other code"):
        compare.read("workspace", root=tmp_path)
    (tmp_path / compare.SUMMARY).write_text("{")
    with pytest.raises(ValueError, match=r"metrics.json of workspace is not valid JSON"):
        compare.read("workspace", root=tmp_path)
