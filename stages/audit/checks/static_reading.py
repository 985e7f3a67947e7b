"""S1: hints from reading the artifact's code. They are for a reviewer and never decide.

Every source file of the artifact is parsed. The hints are updates of parameters inside `predict`, which runs before the score is committed,
and the patterns that stages/audit/code/reading.py looks for in code that names validation tokens.
"""

import zipfile

from stages.audit.code import reading, syntax, unpack
from stages.audit.code.domain import names_of
from stages.audit.evidence import Evidence, Verdict

PROVES = "Nothing: it points a reader to places in the code."
CANNOT_SEE = "Everything that is not spelled as expected: names can be changed, and code can be made at run time."
PRECEDENT = "none; the reviewers of the contest read the code first"


def check(evidence: Evidence) -> Verdict:
    hints, files = [], 0
    with zipfile.ZipFile(evidence.submission) as archive:
        for entry in archive.infolist():
            if language := unpack.language_of(entry.filename):
                files += 1
                tree, why = syntax.parse(archive.read(entry).decode(errors="replace"), language)
                if tree is None:
                    hints.append(f"{entry.filename} cannot be read ({why})")
                    continue
                found = reading.hints(entry.filename, tree, language=language)
                hints += [f"{hint.where}: {hint.text}" for hint in found if hint.against]
                if f"evaluators/{evidence.evaluator}.py" in entry.filename:
                    hints += _adapts_in_predict(entry.filename, tree)
    return Verdict("reported", {"files": files, "hints": hints}, positions=files)


def _adapts_in_predict(name: str, tree: syntax.Node) -> list[str]:
    calls = [
        node
        for function in tree.walk()
        if function.kind == "function_definition" and function.field("name").text == "predict"
        for node in function.walk()
        if node.kind == "call" and node.field("function").kind == "attribute"
    ]
    return [
        f"{name}, line {node.line}: predict() computes gradients ({node.field('function').text}): honest where the objective ends before "
        "the tokens that are scored"
        for node in calls
        if names_of(node) == "backward" or node.field("function").text.endswith("autograd.grad")
    ]
