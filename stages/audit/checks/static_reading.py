"""S1: hints from reading the artifact's code. They are for a reviewer and never decide.

Every Python file of the artifact is parsed. The hints are updates of parameters inside `predict`, which runs before the score is committed,
and the patterns that stages/audit/reading.py looks for in code that names validation tokens.
"""

import ast
import zipfile

from stages.audit import reading
from stages.audit.evidence import Evidence, Verdict
from stages.audit.submission import unpack

PROVES = "Nothing: it points a reader to places in the code."
CANNOT_SEE = "Everything that is not spelled as expected: names can be changed, and code can be made at run time."
PRECEDENT = "none; the reviewers of the contest read the code first"


def check(evidence: Evidence) -> Verdict:
    hints, files = [], 0
    with zipfile.ZipFile(evidence.submission) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".py"):
                files += 1
                tree, why = unpack.parse(archive.read(entry).decode(errors="replace"))
                if tree is None:
                    hints.append(f"{entry.filename} cannot be read ({why})")
                    continue
                hints += [f"{hint.where}: {hint.text}" for hint in reading.hints(entry.filename, tree) if hint.against]
                if f"evaluators/{evidence.evaluator}.py" in entry.filename:
                    hints += _adapts_in_predict(entry.filename, tree)
    return Verdict("reported", {"files": files, "hints": hints}, positions=files)


def _adapts_in_predict(name: str, tree: ast.Module) -> list[str]:
    calls = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name == "predict"
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    return [
        f"{name}, line {node.lineno}: predict() computes gradients ({ast.unparse(node.func)}): honest where the objective ends before "
        "the tokens that are scored"
        for node in calls
        if node.func.attr == "backward" or ast.unparse(node.func).endswith("autograd.grad")
    ]
