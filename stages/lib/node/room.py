"""Is there room for what a stage writes? `artifacts/` and DVC's cache are looked at before the work and not after it.

    python -m stages.lib.node.room          one sentence and exit code 1 if not; `make repro` asks this first

DVC moves every output into its cache when a stage has ended. If the cache cannot be written to then, the work is lost.
"""

import configparser
import os
import shutil
from pathlib import Path

LEAST_BYTES = 50_000_000  # the default run writes 150 MB in all, and its largest stage 60 MB


def check(artifacts: Path = Path("artifacts"), root: Path = Path()) -> None:
    """ValueError unless `artifacts` and the cache of the DVC repository `root` can be written to and have LEAST_BYTES left. Without `.dvc`
    only `artifacts` is looked at."""
    places = {"artifacts": Path(artifacts)}
    if (Path(root) / ".dvc").is_dir():
        places["the cache of DVC"] = cache(Path(root) / ".dvc")
    for name, path in places.items():
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not os.access(there, os.W_OK):
            raise ValueError(
                f"{name}, {path}, cannot be written to, so what a stage makes would be lost; change its permissions, or "
                "choose another folder for the cache: dvc cache dir --local FOLDER"
            )
        free = shutil.disk_usage(there).free
        if free < LEAST_BYTES:
            raise ValueError(
                f"the disk of {name}, {path}, has {free / 1e6:.0f} MB left, and a stage needs at least {LEAST_BYTES / 1e6:.0f} MB; "
                "free some space and run it again, finished stages are kept (dvc gc --workspace removes results of other experiments)"
            )


def cache(folder: Path) -> Path:
    """The folder of DVC's cache in which files are, by the configuration in `folder`, which is `.dvc`."""
    place = folder / "cache"
    for name in ("config", "config.local"):
        found = configparser.ConfigParser(interpolation=None, strict=False)
        found.read(folder / name, encoding="utf-8")
        if found.has_option("cache", "dir"):
            place = folder / found["cache"]["dir"]
    return place / "files/md5"


if __name__ == "__main__":
    from stages.lib.node import command

    with command.sentences("room"):
        check()
