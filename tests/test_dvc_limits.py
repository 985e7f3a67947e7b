"""What DVC itself cannot do, and the way out that docs/pipeline.md names for each. If a test fails, DVC has changed: mend the page."""

import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.repository import ENVIRONMENT, run

pytestmark = [pytest.mark.dvc, pytest.mark.large]  # what DVC does and not what we do: make test-s3
STAGE = "import json, pathlib, yaml\nx = yaml.safe_load(open('params.yaml'))['x']\npathlib.Path('artifacts').mkdir(exist_ok=True)\n"
STAGE += "pathlib.Path('artifacts/metrics.json').write_text(json.dumps({'x': x}))\n"


def project(root: Path) -> Path:
    """A pipeline of one stage with the layout of ours, and a history of two commits."""
    root.mkdir(parents=True)
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "dvc", "init", "-q")
    (root / "data").mkdir()
    (root / "data/README.md").write_text("text goes here\n")
    (root / "stage.py").write_text(STAGE)
    (root / "params.yaml").write_text("x: 1\n")
    (root / ".gitignore").write_text("/artifacts/\n/data/*\n!/data/README.md\n")
    body = {"cmd": "python stage.py", "deps": ["data", "stage.py"], "params": ["x"], "metrics": ["artifacts/metrics.json"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"stage": body}}))
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "start")
    run(root, "git", "commit", "-qm", "second", "--allow-empty")
    return root


def fails(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


def queue(root: Path, name: str, value: int) -> str:
    """Run one experiment by the queue. Returns DVC's table."""
    run(root, "dvc", "exp", "run", "--queue", "-n", name, "-S", f"x={value}")
    run(root, "dvc", "queue", "start")
    deadline = time.monotonic() + 120
    while not any(word in (table := run(root, "dvc", "queue", "status")) for word in ("Success", "Failed")):
        assert time.monotonic() < deadline, table
        time.sleep(0.5)
    return table


def test_queue_in_a_shallow_clone_says_success_and_keeps_nothing(tmp_path):
    origin, root = project(tmp_path / "origin"), tmp_path / "shallow"
    run(tmp_path, "git", "clone", "-q", "--depth", "1", f"file://{origin}", str(root))
    assert "Success" in queue(root, "lost", 2) and run(root, "dvc", "exp", "list").strip() == ""
    run(root, "git", "fetch", "-q", "--unshallow")
    run(root, "dvc", "exp", "run", "--temp", "-n", "kept", "-S", "x=3")
    assert "kept" in run(root, "dvc", "exp", "list")


def test_broken_link_below_data_stops_every_run(tmp_path):
    root = project(tmp_path / "root")
    (root / "data/gone").symlink_to("/nowhere")
    assert "No such file or directory" in fails(root, "dvc", "repro")
    (root / "data/gone").unlink()
    run(root, "dvc", "repro")


def test_branch_of_an_experiment_needs_a_committed_lock(tmp_path):
    root = project(tmp_path / "root")
    run(root, "dvc", "exp", "run", "-n", "five", "-S", "x=5")
    run(root, "dvc", "exp", "branch", "five", "branch-five")
    run(root, "git", "restore", "params.yaml")
    assert "would be overwritten by checkout" in fails(root, "git", "checkout", "branch-five")
    run(root, "dvc", "repro")
    run(root, "git", "add", "dvc.lock")
    run(root, "git", "commit", "-qm", "the run")
    run(root, "git", "checkout", "-q", "branch-five")
    run(root, "dvc", "checkout")
    assert (root / "artifacts/metrics.json").read_text() == '{"x": 5}'


def test_artifacts_cannot_be_a_link_but_the_cache_can_lie_elsewhere(tmp_path):
    root = project(tmp_path / "root")
    (tmp_path / "large").mkdir()
    (root / "artifacts").symlink_to(tmp_path / "large")
    assert "is outside of git repository" in fails(root, "dvc", "repro")
    (root / "artifacts").unlink()
    run(root, "dvc", "cache", "dir", "--local", str(tmp_path / "large"))
    run(root, "dvc", "config", "--local", "cache.type", "symlink")
    run(root, "dvc", "repro")
    assert (root / "artifacts/metrics.json").resolve().is_relative_to(tmp_path / "large")


def test_queue_does_not_work_below_a_path_with_other_letters_than_ascii(tmp_path):
    root = project(tmp_path / "größe/root")
    assert "Failed" in queue(root, "lost", 2)
    deadline = time.monotonic() + 60  # the worker writes its log after the table
    while not any("UnicodeEncodeError" in log.read_text() for log in root.glob(".dvc/tmp/exps/celery/*.out")):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    run(root, "dvc", "exp", "run", "-n", "kept", "-S", "x=3")
    assert "kept" in run(root, "dvc", "exp", "list")


def test_experiment_of_before_the_remote_is_pushed_without_its_results(tmp_path):
    root = project(tmp_path / "root")
    run(tmp_path, "git", "clone", "-q", "--bare", str(root), "origin.git")
    run(root, "git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    run(root, "dvc", "exp", "run", "-n", "five", "-S", "x=5")
    run(root, "dvc", "remote", "add", "-d", "shared", str(tmp_path / "store"))
    assert "Pushed" in run(root, "dvc", "exp", "push", "origin", "five") and not (tmp_path / "store").exists()
    run(root, "dvc", "exp", "apply", "five")
    assert "shared" not in (root / ".dvc/config").read_text(), "the experiment's own, older file is back"
    run(root, "dvc", "remote", "add", "-d", "shared", str(tmp_path / "store"))
    run(root, "git", "add", ".dvc/config")
    run(root, "git", "commit", "-qm", "remote")
    said = run(root, "dvc", "exp", "run", "-n", "again", "-S", "x=5")
    assert "Running stage" not in said and "uploaded" in run(root, "dvc", "exp", "push", "origin", "again")


def test_own_text_reaches_a_temporary_folder_only_as_a_copy_or_by_its_absolute_path(tmp_path):
    root = project(tmp_path / "root")
    (root / "data/mine.txt").write_text("mine\n")
    body = yaml.safe_load((root / "dvc.yaml").read_text())
    body["stages"]["stage"] |= {"deps": ["${path}", "stage.py"], "cmd": "cat ${path} && python stage.py"}
    (root / "dvc.yaml").write_text(yaml.safe_dump(body))
    (root / "params.yaml").write_text("x: 1\npath: data\n")
    run(root, "git", "commit", "-qam", "path")
    own = "path=data/mine.txt"
    assert "data/mine.txt" in fails(root, "dvc", "exp", "run", "--temp", "-n", "lost", "-S", own)
    run(root, "dvc", "exp", "run", "--temp", "-n", "copied", "-C", "data/mine.txt", "-S", own)
    run(root, "dvc", "exp", "run", "--queue", "-n", "queued", "-C", "data/mine.txt", "-S", own, "-S", "x=2")
    run(root, "dvc", "exp", "run", "--queue", "-n", "absolute", "-S", f"path={root}/data/mine.txt", "-S", "x=3")
    run(root, "dvc", "exp", "run", "--run-all")
    assert set(run(root, "dvc", "exp", "list", "--name-only").split()) >= {"copied", "queued", "absolute"}
