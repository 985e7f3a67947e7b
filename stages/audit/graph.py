"""The graph of stages in a dvc.lock: the stages that an artifact was made by, and the files that each of them really opened.

A stage's entry has `deps` (what it declares to read) and `outs` (what it wrote), each with the MD5 that DVC took; a folder's MD5 is that of
the JSON list of its files' MD5s. One of the outs is the record of the files that the stage opened (stages/lib/node/access_log.py).
"""

import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stages.lib.dvc import dvc_lock
from stages.lib.node import access_log, files
from stages.lib.text import accounting


@dataclass
class Ancestry:
    """What an artifact was made from. `trails`: each stage that it depends on, with the path from the artifact; `val`: the first path that
    leads to the val split; `stale`: one sentence for each dep that differs from the output that the lock records."""

    trails: dict[str, tuple[str, ...]] = field(default_factory=dict)
    val: tuple[str, ...] | None = None
    stale: list[str] = field(default_factory=list)


def ancestry(stages: dict, artifact: str) -> Ancestry:
    """Follow the stages back from `artifact`, nearest first, so that the path to the val split is a shortest one."""
    made_by = dvc_lock.makers(stages)
    recorded = {out["path"]: out.get("md5") for entry in stages.values() for out in entry.get("outs", [])}
    found, queue = Ancestry(), deque([(artifact, (artifact,))])
    while queue:
        path, trail = queue.popleft()
        if dvc_lock.touches_val(path):
            found.val = found.val or trail
            continue
        for maker in sorted(dvc_lock.makers_of(path, made_by) - set(found.trails) - {dvc_lock.ROOT_STAGE}):
            found.trails[maker] = (*trail, maker)
            for dep in stages[maker].get("deps", []):
                if dep["path"] in recorded and dep.get("md5") != recorded[dep["path"]]:
                    found.stale.append(f"{maker} read another {dep['path']} than the one recorded")
                queue.append((dep["path"], (*trail, maker, dep["path"])))
    if dvc_lock.ROOT_STAGE in stages:
        found.trails.setdefault(dvc_lock.ROOT_STAGE, (artifact, "...", dvc_lock.ROOT_STAGE))
    return found


READ_DATA = (dvc_lock.ROOT_STAGE, "vocabulary")  # may read a file that no stage made: the text, and a tokenizer that is given
CODE = ("stages", "params.yaml")
READS_CODE = ("script",)  # may read code and parameters alone


def gaps(stages: dict, artifact: str) -> list[str]:
    """Where the way back from `artifact` ends before `prepare`: one sentence for each file that no stage of the lock made."""
    made_by = dvc_lock.makers(stages)
    found = [] if dvc_lock.makers_of(artifact, made_by) else [f"no stage of dvc.lock made {artifact}"]
    for name in sorted(above(stages, [artifact]) - {dvc_lock.ROOT_STAGE}):
        data = [dep["path"] for dep in stages[name].get("deps", []) if not any(dvc_lock.within(dep["path"], code) for code in CODE)]
        for path in data:
            is_made = dvc_lock.makers_of(path, made_by) - {name}
            if not is_made and (name not in READ_DATA or dvc_lock.within(path, "artifacts")):
                found.append(f"no stage of dvc.lock made {path}, which {name} read")
        if name not in READS_CODE and not any(dvc_lock.within(path, "artifacts") for path in data):
            found.append(f"dvc.lock says that {name} read nothing that another stage made")
    if not found and dvc_lock.ROOT_STAGE not in above(stages, [artifact]):
        found.append(f"the way back from {artifact} does not end at {dvc_lock.ROOT_STAGE}")
    return found


def above(stages: dict, paths: list[str]) -> set[str]:
    """All stages that `paths` were made by, with what these were made by, and so on."""
    made_by, found, waiting = dvc_lock.makers(stages), set(), list(paths)
    while waiting:
        for name in dvc_lock.makers_of(waiting.pop(), made_by) - found:
            found.add(name)
            waiting += [dep["path"] for dep in stages[name].get("deps", [])]
    return found


def record(stages: dict, name: str, root: Path) -> tuple[list[str] | None, str | None]:
    """(files that stage `name` opened, None), or (None, why) if there is no record that can be trusted."""
    out = next((out for out in stages[name].get("outs", []) if out["path"].endswith(access_log.NAME)), None)
    if out is None:
        return None, f"{name} has no record of the files that it opened: it ran before there was one, run: dvc repro --force {name}"
    path = root / out["path"]
    if not path.is_file():
        return None, f"{out['path']} is missing; run: dvc checkout"
    if files.md5(path) != out.get("md5"):
        return None, f"{out['path']} is not the record that dvc.lock names (MD5 differs)"
    lines = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        why = f" ({lines['incomplete']})" if isinstance(lines, dict) and "incomplete" in lines else ""
        return None, f"{out['path']} is no list of paths{why}; run: dvc repro --force {name}"
    return lines, None


def undeclared(entry: dict, lines: list[str]) -> list[str]:
    """Files that a stage opened although it neither declares them as deps nor wrote them."""
    known = [item["path"] for item in [*entry.get("deps", []), *entry.get("outs", [])]]
    return [line for line in lines if not any(dvc_lock.within(line, path) for path in known)]


def idle(entry: dict, lines: list[str]) -> list[str]:
    """Data that a stage declares as deps and never opened. This is harmless but worth reporting."""
    return [
        dep["path"]
        for dep in entry.get("deps", [])
        if dep["path"].startswith(tuple(f"{root}/" for root in access_log.ROOTS))
        and not any(dvc_lock.within(line, dep["path"]) for line in lines)
    ]


def tokenizer_origin(lock: Path, content: bytes) -> str | None:
    """Where a tokenizer is from: a published file, the contest's shards, or training by `vocabulary`. None: somebody gave it."""
    stages = dvc_lock.read(lock) if lock.is_file() else {}
    chosen = {name: stages.get(name, {}).get("params", {}).get("params.yaml", {}).get(name, {}) for name in ("prepare", "vocabulary")}
    source = chosen["vocabulary"].get("source")
    given = [dep.get("md5") for dep in stages.get("vocabulary", {}).get("deps", [])] if source == "file" else []
    for md5 in (hashlib.md5(content).hexdigest(), *given):
        if md5 in accounting.PUBLISHED_TOKENIZERS:
            return accounting.PUBLISHED_TOKENIZERS[md5]
    if source == "shards":
        return "the shards of prepare" if chosen["prepare"].get("source") == "fineweb" else None
    return "train" if source in ("bpe", "bytes") else None


def md5(path: Path) -> str:
    """The MD5 of a file or folder, computed as DVC does."""
    if not path.is_dir():
        return files.md5(path)
    inside = sorted((str(PurePosixPath(file.relative_to(path))), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": files.md5(file), "relpath": name} for name, file in inside]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
