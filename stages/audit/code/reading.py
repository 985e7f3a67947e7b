"""What a script does with validation tokens, as far as its source shows: hints for a reviewer, never a verdict.

flow.py follows the tokens, trace.py finds the order of learning and scoring, checks.py the expressions that are wrong by themselves, and
patterns.py reads C, CUDA and shell by their words. Only names tell what is a target, a loss or validation text at its source, so a renamed
variable hides a leak and an unlucky name accuses honest code.
"""

from dataclasses import dataclass

from stages.audit.code import patterns, settings
from stages.audit.code.checks import contextual
from stages.audit.code.flow import Flow
from stages.audit.code.syntax import Node
from stages.audit.code.trace import Order

UPDATES = {  # kind: (the sentence, whether it is against the rules)
    "trains on val": ("learns validation tokens (line {update}){after}: the artifact has learned the text that it is scored on", True),
    "adapts first": (
        "updates parameters (line {update}) before the sums of the score (line {score}): if the "
        "objective holds the tokens that are scored, "
        "the score is no code length",
        True,
    ),
    "scored again": ("learns validation tokens (line {update}) and scores them again in the next repetition (line {score})", True),
    "score first": ("adds to the sums (line {score}) before it updates (line {update})", False),
    "learns after the score": ("learns validation tokens (line {update}) after all were scored (line {score})", False),
    "context only": ("updates parameters (line {update}) on tokens before those that are scored (line {score})", False),
}
FACTS = {
    "training loop": "trains on data that are not validation tokens (line {0})",
    "warm-up": "warms up on random ids (line {0})",
    "warm-up on val": (
        "warms up on validation tokens (line {0}); if no weight remains changed that is harmless, and it was questioned (#1530)"
    ),
}


@dataclass(frozen=True)
class Hint:
    """One finding: `kind` is a word for tables, `text` a sentence for people, `against` says whether it would break a rule."""

    kind: str
    where: str
    text: str
    against: bool
    line: int = 0


def hints(name: str, tree: Node, known: settings.Settings | None = None, language: str = "python") -> list[Hint]:
    """All hints of one module, in the order of its lines."""
    if language != "python":
        return [
            Hint(kind, f"{name}: {where}, line {line}" if where else f"{name}, line {line}", text, against, line)
            for kind, line, where, text, against in patterns.of_other_languages(tree, language)
        ]
    flow = Flow(tree, known or settings.Settings()).run()
    found: dict[tuple, Hint] = {}

    def note(kind: str, line: int, where: str, text: str, against: bool) -> None:
        place = f"{name}: {where}, line {line}" if where else f"{name}, line {line}"
        found.setdefault((kind, where), Hint(kind, place, text, against, line))

    order = Order()
    reports = order.read(flow.trace)
    for _, items in flow.entries:
        reports += Order().read(items)
    for report in reports:
        kind = report.kind
        if contextual(report.update.tags) and kind in ("adapts first", "scored again"):
            kind = "context only"
        sentence, against = UPDATES[kind]
        score = report.score.line if report.score else 0
        after = f" and scores them afterwards (line {score})" if score else " and keeps no score of them"
        note(kind, report.update.line, report.update.where, sentence.format(update=report.update.line, score=score, after=after), against)
    flow.finish()
    for (kind, where), (line, sentence) in flow.findings.items():
        note(kind, line, where, sentence, True)
    for kind, sentence in FACTS.items():
        if kind in flow.facts:
            note(kind, flow.facts[kind][0], "", sentence.format(flow.facts[kind][0]), False)
    if {"hints in stream order", "documents by length"} <= set(flow.facts):
        line, word = flow.facts["hints in stream order"]
        note(
            "two orders",
            line,
            "",
            f"{word} counts hints in the order of the stream (line {line}) while documents are scored by "
            f"length (line {flow.facts['documents by length'][0]}): each needs the other's tokens first",
            True,
        )
    for kind, line, where, text, against in patterns.of_python(tree):
        note(kind, line, where, text, against)
    if flow.unfinished:
        note("unfinished", 0, "", "the script is too large to be followed to its end", False)
    return sorted(found.values(), key=lambda hint: hint.line)
