"""Git revisions and DVC experiments by name, and where the results of a revision are."""

import subprocess
from pathlib import Path

OF_A_RUN = ("dvc.lock", "artifacts/", ".dvc/tmp/")  # what an experiment's commit has beside the files of the revision that was run


def resolved(name: str, *, root: Path) -> str:
    """The commit that git or DVC finds under this name. ValueError if there is none, or if the name is ambiguous."""
    from dvc.exceptions import DvcException  # the import takes half a second and is needed only here
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    try:
        with Repo(str(root)) as repo:
            return resolve_rev(repo.scm, name)
    except DvcException as error:
        if "mbiguous" in str(error):
            raise ValueError(f"several experiments are called {name!r}; name the commit of one: dvc exp show") from None
        raise ValueError(f"neither git nor DVC knows a revision {name!r}; there are: git log, dvc exp list") from None


def with_results(commit: str, *, root: Path) -> str | None:
    """A commit with the files of `commit` and the results of its run: itself if it has a dvc.lock, else an experiment that started from it
    and changed no file, such as the one that `make repro` saves. None if there is none."""
    if _git(root, "ls-tree", "--name-only", commit, "dvc.lock"):
        return commit
    experiments = _git(root, "for-each-ref", "--format=%(objectname)", f"refs/exps/{commit[:2]}/{commit[2:]}")
    for experiment in experiments:
        changed = _git(root, "diff", "--name-only", "--no-renames", commit, experiment)
        if "dvc.lock" in changed and all(path.startswith(OF_A_RUN) for path in changed):
            return experiment
    return None


def _git(root: Path, *arguments: str) -> list[str]:
    """The lines that a git command prints."""
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout.splitlines()
