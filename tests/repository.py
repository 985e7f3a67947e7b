"""The finished tiny pipeline as a git and DVC repository in which everything is up to date, and commands in it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.conftest import ROOT

ENVIRONMENT = os.environ | {
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@t",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@t",
}


def run(folder: Path, *command: str, **environment: str) -> str:
    """What the command says. Fails with it if the command fails.

    It writes to files and not to pipes: what it leaves behind, such as the workers of DVC's queue, would keep a pipe open.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said, tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        done = subprocess.run(command, cwd=folder, env=ENVIRONMENT | environment, stdout=said, stderr=errors, timeout=600, check=False)
        said.seek(0)
        errors.seek(0)
        output = said.read()
        assert done.returncode == 0, output + errors.read()
    return output


def committed(finished: Path, root: Path, *, without: tuple[str, ...] = ("causal_slot", "memory")) -> Path:
    """Copy the finished pipeline to `root` and commit it, without some runs of `evaluate`. dvc.lock is DVC's own and not in git."""
    shutil.copytree(finished, root)
    (root / "dvc.lock").unlink()  # the fixture's stand-in; here DVC writes its own
    shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    values = yaml.safe_load((root / "params.yaml").read_text())
    for name in without:
        values["evaluate"]["runs"].pop(name, None)
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "start")
    run(root, sys.executable, "-m", "stages.script")  # which no other test wants in the finished pipeline
    run(root, "dvc", "commit", "-f")
    return root
