"""Nothing that made the artifact has read the validation split. (T11)

The check follows dvc.lock back from the artifact: each output was made by a stage, whose deps say what it read. Every file under artifacts/
must have a stage that made it, back to `prepare`; a dvc.lock from which a stage is missing fails. Each of these stages also left a record
of the files that it really opened. Both must agree, so a stage that opens val by a path that it does not declare is caught. `prepare`,
which splits the documents, is the only stage that may read all of them.
"""

from pathlib import Path

from stages.audit import graph
from stages.audit.evidence import Evidence, Verdict, is_built_elsewhere
from stages.lib.dvc import dvc_lock
from stages.lib.node import files

PROVES = (
    "Against honest mistakes and edited files: every file behind the artifact has a stage that made it, back to the splitting of the text; "
    "none of these stages declares the validation split or anything made from it, and none opened a data file that it does not declare."
)
CANNOT_SEE = (
    "A file that is opened outside of Python or under another name, a copy of val that is declared as something else "
    "(split_overlap and memorization look for that), a dvc.lock that was written by hand together with records that fit it."
)
PRECEDENT = "README, 20 Mar 2026: no validation data in training; pre-quantization TTT rejected (organizers, #1972, 2 May 2026)"
ARTIFACT = "artifacts/package/submission.pyz"


def check(evidence: Evidence) -> Verdict:
    if is_built_elsewhere(evidence):
        return Verdict("not_applicable", {"reason": "built elsewhere: lineage not ruled"})
    if not evidence.lock.is_file():
        return Verdict("not_applicable", {"reason": f"{evidence.lock.name} is missing: the artifact was not made by dvc repro"})
    return walk(dvc_lock.read(evidence.lock), ARTIFACT, files.md5(evidence.submission), root=evidence.lock.parent)


def walk(stages: dict, artifact: str, md5: str, *, root: Path) -> Verdict:
    """The verdict for `artifact` by the stages of a dvc.lock. `md5` is that of the evaluated file; `root` is where the records are."""
    recorded = {out["path"]: out.get("md5") for entry in stages.values() for out in entry.get("outs", [])}
    if recorded.get(artifact) != md5:
        return Verdict("fail", {"reason": f"dvc.lock records another {artifact} (md5 {recorded.get(artifact)}) than was evaluated ({md5})"})
    found = graph.ancestry(stages, artifact)
    if gaps := graph.gaps(stages, artifact):
        return Verdict("fail", {"reason": "; ".join(gaps)})
    if found.val:
        return Verdict("fail", {"reason": "the artifact descends from the validation split", "path": " <- ".join(found.val)})
    if found.stale:
        return Verdict("fail", {"reason": "the chain of hashes is broken", "stale": found.stale})
    opened, idle, missing = 0, {}, []
    for name in sorted(found.trails):
        lines, why = graph.record(stages, name, root)
        if lines is None:
            missing.append(why)
            continue
        hidden = graph.undeclared(stages[name], lines)
        if hidden:
            val = [line for line in hidden if dvc_lock.touches_val(line)]
            return Verdict(
                "fail",
                {
                    "reason": f"{name} opened {'the validation split' if val else 'a file'} that it does not declare",
                    "opened": val or hidden,
                    "path": " <- ".join((*found.trails[name], (val or hidden)[0])),
                },
            )
        opened += len(lines)
        if unread := graph.idle(stages[name], lines):
            idle[name] = unread
    facts = {
        "stages_above_the_artifact": sorted(found.trails),
        "val_paths": list(dvc_lock.VAL),
        "files_opened": opened,
        "declared_and_not_opened": idle,
    }
    if missing:
        return Verdict("not_applicable", facts | {"reason": "; ".join(missing)}, positions=len(found.trails))
    return Verdict("pass", facts, positions=len(found.trails))
