"""dvc.lock: what each stage read and wrote, by path and MD5, and which paths are the val split.

Errors: ValueError for a lock that cannot be read.
"""

import functools
from pathlib import Path, PurePosixPath

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times as fast, and is not in every build of the package
VAL = ("artifacts/prepare/val", "artifacts/tokenize/val")
ROOT_STAGE = "prepare"  # it splits the documents, so it is the only stage that must see all of them


def read(lock: Path) -> dict:
    """The stages of a dvc.lock by name, without those of codecs that were no longer among `compress.runs` when the artifact was packed: DVC
    never drops an entry."""
    try:
        stages = yaml.load(lock.read_text(encoding="utf-8"), LOADER)["stages"]
        runs = stages.get("package", {}).get("params", {}).get("params.yaml", {}).get("compress", {}).get("runs")
        if runs is not None:
            stages = {name: entry for name, entry in stages.items() if not name.startswith("compress@") or name.split("@", 1)[1] in runs}
        for entry in stages.values():
            for item in [*entry.get("deps", []), *entry.get("outs", [])]:
                item["path"]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise ValueError(f"{lock} is not a readable dvc.lock; delete it and run: dvc repro (finished stages are cached)") from None
    return stages


def makers(stages: dict) -> dict[str, str]:
    """The stage that made each output, by path."""
    return {out["path"]: name for name, entry in stages.items() for out in entry.get("outs", [])}


def makers_of(path: str, made_by: dict[str, str]) -> set[str]:
    """The stages that made `path`, a file inside it, or a folder that contains it."""
    return {maker for out, maker in made_by.items() if within(path, out) or within(out, path)}


def touches_val(path: str) -> bool:
    """Whether `path` is the val split, inside it, or a folder that contains it."""
    return any(within(path, val) or within(val, path) for val in VAL)


def within(path: str, folder: str) -> bool:
    above = _parts(folder)
    return _parts(path)[: len(above)] == above


@functools.lru_cache(1 << 16)  # every path of a lock is compared with every other
def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts
