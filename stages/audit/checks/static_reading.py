"""S1: hints from reading the artifact's code. They are for a reviewer and never decide.

Every source file of the artifact is parsed. The hints are updates of parameters inside `predict`, which runs before the score is committed,
and the patterns that stages/audit/code/reading.py looks for in code that names validation tokens.
"""

import zipfile
from collections.abc import Iterator

from stages.audit.code import reading, syntax, unpack
from stages.audit.code.domain import names_of
from stages.audit.evidence import Evidence, Verdict, is_built_elsewhere
from stages.lib.referee import archive, programs

PROVES = "Nothing: it points a reader to places in the code."
CANNOT_SEE = "Everything that is not spelled as expected: names can be changed, and code can be made at run time."
PRECEDENT = "none; the reviewers of the contest read the code first"


def check(evidence: Evidence) -> Verdict:
    hints, files = [], 0
    for name, content in _sources(programs.of(evidence.submission), hints):
        if language := unpack.language_of(name):
            files += 1
            tree, why = syntax.parse(content.decode(errors="replace"), language)
            if tree is None:
                hints.append(f"{name} cannot be read ({why})")
                continue
            found = reading.hints(name, tree, language=language)
            hints += [f"{hint.where}: {hint.text}" for hint in found if hint.against]
            if is_built_elsewhere(evidence) or f"evaluators/{evidence.evaluator}.py" in name:
                hints += _adapts_in_predict(name, tree)
    return Verdict("reported", {"files": files, "hints": hints}, positions=files)


def _sources(program: programs.Program, hints: list[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file: those in the zip, if it is one, else those that ship. What cannot be read becomes a hint."""
    if zipfile.is_zipfile(program.ships):
        try:
            with archive.opened(program.ships) as file:
                yield from ((entry.filename, content) for entry, content in archive.contents(file))
        except ValueError as error:
            hints.append(f"not all of its code was read: {error}")
    else:
        yield from ((name, path.read_bytes()) for name, path in program.entries())


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
