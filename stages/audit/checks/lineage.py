"""Nothing that made the artifact has read the validation split.

Walks dvc.lock from the artifact up: a stage made each output, and its deps say what it read. A path to the prepared or
tokenized val split is reported. `prepare`, which splits the documents, is the one stage that must see them all.
What it cannot see: a stage that opens a file it does not declare.
"""

from collections import deque
from pathlib import PurePosixPath

import yaml

from stages.audit.evidence import Evidence, Verdict
from stages.lib import stage

VAL = ("artifacts/prepare/val", "artifacts/tokenize/val")
ROOT_STAGE = "prepare"

PROVES = "By the hashes of dvc.lock, no stage above the artifact declares the validation split or anything made from it."
CANNOT_SEE = "A stage that opens a file it does not declare."
PRECEDENT = "README, 20 Mar 2026: no validation data in training; pre-quantization TTT rejected (organizers, #1972, 2 May 2026)"


def check(evidence: Evidence) -> Verdict:
    if not evidence.lock.is_file():
        return Verdict("not_applicable", {"reason": f"{evidence.lock.name} is missing: the artifact was not made by dvc repro"})
    try:
        stages = yaml.safe_load(evidence.lock.read_text(encoding="utf-8"))["stages"]
    except (yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"{evidence.lock} is not a readable dvc.lock; delete it and run: dvc repro (finished stages are cached)") from None
    return walk(stages, "artifacts/package/submission.pyz", stage.md5(evidence.submission))


def walk(stages: dict, artifact: str, md5: str) -> Verdict:
    """The verdict for `artifact` from the parsed stages of a dvc.lock; `md5` is that of the file that was evaluated."""
    makers = {out["path"]: name for name, entry in stages.items() for out in entry.get("outs", [])}
    recorded = {out["path"]: out.get("md5") for entry in stages.values() for out in entry.get("outs", [])}
    if recorded.get(artifact) != md5:
        return Verdict("fail", {"reason": f"dvc.lock records another {artifact} (md5 {recorded.get(artifact)}) than was evaluated ({md5})"})
    queue, seen, stale = deque([(artifact, (artifact,))]), set(), []
    while queue:
        path, trail = queue.popleft()
        if touches_val(path):
            return Verdict("fail", {"reason": "the artifact descends from the validation split", "path": " <- ".join(trail)})
        for maker in {makers[out] for out in makers if within(path, out) or within(out, path)} - seen - {ROOT_STAGE}:
            seen.add(maker)
            for dep in stages[maker].get("deps", []):
                if dep["path"] in recorded and dep.get("md5") != recorded[dep["path"]]:
                    stale.append(f"{maker} read another {dep['path']} than the one recorded")
                queue.append((dep["path"], (*trail, maker, dep["path"])))
    if stale:
        return Verdict("fail", {"reason": "the chain of hashes is broken", "stale": stale})
    return Verdict("pass", {"stages_above_the_artifact": sorted(seen | {ROOT_STAGE}), "val_paths": list(VAL)})


def touches_val(path: str) -> bool:
    """Is `path` the val split, inside it, or a folder that contains it?"""
    return any(within(path, val) or within(val, path) for val in VAL)


def within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
