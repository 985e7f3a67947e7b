"""Git revisions and DVC experiments by name."""

from pathlib import Path


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
