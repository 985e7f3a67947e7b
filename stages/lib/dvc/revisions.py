"""Git revisions and DVC experiments by name."""

from pathlib import Path


def resolved(name: str, *, root: Path) -> str:
    """The commit that git or DVC knows by this name. ValueError if there is none, or the name says more than one."""
    from dvc.exceptions import DvcException  # half a second, and only here
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    try:
        with Repo(str(root)) as repo:
            return resolve_rev(repo.scm, name)
    except DvcException as error:
        if "mbiguous" in str(error):
            raise ValueError(f"several experiments are called {name!r}; name the commit of one: dvc exp show") from None
        raise ValueError(f"neither git nor DVC knows a revision {name!r}; there are: git log, dvc exp list") from None
