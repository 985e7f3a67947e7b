"""The graph of stages in a dvc.lock: what an artifact descends from, and what each stage above it really opened.

A stage's entry has `deps` (what it declares to read) and `outs` (what it wrote), each with the MD5 that DVC took; a folder's MD5 is that of
the JSON list of its files' MD5s. One of the outs is the record of the files that the stage opened (stages/lib/opened.py).

Errors: ValueError for a lock that cannot be read.
"""

import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

from stages.lib import opened, stage

VAL = ("artifacts/prepare/val", "artifacts/tokenize/val")
ROOT_STAGE = "prepare"  # it splits the documents: the one stage that must see them all
CACHE = ".dvc/cache"


@dataclass
class Ancestry:
    """`trails`: each stage above the artifact with its path from the artifact; `val`: the first path that leads to the val split;
    `stale`: deps that are not the outs that the lock records."""

    trails: dict[str, tuple[str, ...]] = field(default_factory=dict)
    val: tuple[str, ...] | None = None
    stale: list[str] = field(default_factory=list)


def read(lock: Path) -> dict:
    """The stages of a dvc.lock by name."""
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
        for entry in stages.values():
            for item in [*entry.get("deps", []), *entry.get("outs", [])]:
                item["path"]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise ValueError(f"{lock} is not a readable dvc.lock; delete it and run: dvc repro (finished stages are cached)") from None
    return stages


def ancestry(stages: dict, artifact: str) -> Ancestry:
    """Walk from `artifact` up, nearest stages first, so that the path to the val split is a shortest one."""
    makers = {out["path"]: name for name, entry in stages.items() for out in entry.get("outs", [])}
    recorded = {out["path"]: out.get("md5") for entry in stages.values() for out in entry.get("outs", [])}
    found, queue = Ancestry(), deque([(artifact, (artifact,))])
    while queue:
        path, trail = queue.popleft()
        if touches_val(path):
            found.val = found.val or trail
            continue
        for maker in sorted({makers[out] for out in makers if within(path, out) or within(out, path)} - set(found.trails) - {ROOT_STAGE}):
            found.trails[maker] = (*trail, maker)
            for dep in stages[maker].get("deps", []):
                if dep["path"] in recorded and dep.get("md5") != recorded[dep["path"]]:
                    found.stale.append(f"{maker} read another {dep['path']} than the one recorded")
                queue.append((dep["path"], (*trail, maker, dep["path"])))
    if ROOT_STAGE in stages:
        found.trails.setdefault(ROOT_STAGE, (artifact, "...", ROOT_STAGE))
    return found


def record(stages: dict, name: str, root: Path) -> tuple[list[str] | None, str | None]:
    """What stage `name` opened, and what is wrong with the record: (None, why) if there is none that can be believed."""
    out = next((out for out in stages[name].get("outs", []) if out["path"].endswith(opened.NAME)), None)
    if out is None:
        return None, f"{name} has no record of the files that it opened: it ran before there was one, run: dvc repro --force {name}"
    path = root / out["path"]
    if not path.is_file():
        return None, f"{out['path']} is missing; run: dvc checkout"
    if stage.md5(path) != out.get("md5"):
        return None, f"{out['path']} is not the record that dvc.lock names (MD5 differs)"
    lines = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        return None, f"{out['path']} is no list of paths"
    return lines, None


def undeclared(entry: dict, lines: list[str]) -> list[str]:
    """What a stage opened and neither declares to read nor wrote itself."""
    known = [item["path"] for item in [*entry.get("deps", []), *entry.get("outs", [])]]
    return [line for line in lines if not any(within(line, path) for path in known)]


def idle(entry: dict, lines: list[str]) -> list[str]:
    """Data that a stage declares and never opened: harmless, and worth knowing."""
    return [dep["path"] for dep in entry.get("deps", []) if dep["path"].startswith(tuple(f"{root}/" for root in opened.ROOTS))
            and not any(within(line, dep["path"]) for line in lines)]


def md5(path: Path) -> str:
    """The MD5 of a file or folder as DVC takes it."""
    if not path.is_dir():
        return stage.md5(path)
    files = sorted((str(PurePosixPath(file.relative_to(path))), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": stage.md5(file), "relpath": name} for name, file in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def touches_val(path: str) -> bool:
    """Is `path` the val split, inside it, or a folder that contains it?"""
    return any(within(path, val) or within(val, path) for val in VAL)


def within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
