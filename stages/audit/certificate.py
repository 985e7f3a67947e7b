"""A certificate as a page that a reviewer can print, and as Markdown for a README: the same facts as certificate.json, no others.

The page is one file; it needs no script, font or network and has a light and a dark form. Each check is listed under the condition of
the contest that it tests. A check that CONDITIONS does not name is listed under the rules, so a new check needs no change here.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.lib import page

CONDITIONS = {
    "C1": (
        "Strict causal dependence",
        "Each distribution is a function of the artifact and of earlier tokens alone.",
        ("replay", "withheld", "documents_apart", "lineage", "files", "split_overlap", "memorization", "data_in_code"),
    ),
    "C2": ("Full normalized distribution", "Before the token is looked at, every token has a probability and they sum to one.", ("claim",)),
    "C3": ("Score before update", "A token's score is fixed before anything that depends on it changes.", ("round_trip",)),
    "C4": ("Single left-to-right pass", "One traversal, each target once, nothing scored again or chosen among runs.", ("byte_count",)),
    "Rules": ("Rules of the competition", "Size, time, network, the same result again and on any number of processes.", ()),
}
VERDICTS = {"pass": "pass", "fail": "fail", "not_applicable": "could not be done", "reported": "reported"}
MEANING = {
    "legal": "Every check passed. What none of them can see is said beside each.",
    "not legal": "At least one check fails.",
    "not ruled": "No check fails, but at least one could not be done.",
}
TEMPLATE = Path(__file__).with_name("certificate.html.j2")


def html(certificate: dict) -> str:
    """The certificate as an HTML page."""
    conditions = []
    for name, (title, words, _) in CONDITIONS.items():
        if found := list(_under(name, certificate["checks"])):
            conditions.append(
                {
                    "name": name,
                    "title": title,
                    "words": words,
                    "verdict": condition(found),
                    "checks": [_shown(check, facts) for check, facts in found],
                }
            )
    return page.render(
        TEMPLATE,
        certificate=certificate,
        meaning=MEANING[certificate["verdict"]],
        head=_head(certificate),
        conditions=conditions,
        said=lambda verdict: VERDICTS.get(verdict, verdict),
    )


def markdown(certificate: dict) -> str:
    """The certificate as Markdown for a README."""
    lines = [f"# {certificate['run']}: {certificate['verdict']}", "", MEANING[certificate["verdict"]], ""]
    lines += [f"* {name}: {_plain(value)}" for name, value in _head(certificate).items()]
    for name, (title, words, _) in CONDITIONS.items():
        found = list(_under(name, certificate["checks"]))
        if not found:
            continue
        lines += [
            "",
            f"## {name}: {title}: {VERDICTS[condition(found)]}",
            "",
            words,
            "",
            "| check | verdict | positions | largest deviation | proves | cannot see | precedent |",
            "|---|---|---:|---:|---|---|---|",
        ]
        for check, facts in found:
            cells = [
                check,
                VERDICTS.get(facts["verdict"], facts["verdict"]),
                _count(facts),
                _deviation(facts),
                facts["proves"],
                facts["cannot_see"],
                facts["precedent"],
            ]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines += [f"\n{check}: {_plain(facts['evidence']['reason'])}" for check, facts in found if facts["evidence"].get("reason")]
    return "\n".join(lines) + "\n"


def condition(found: list[tuple[str, dict]]) -> str:
    """The joint verdict of several checks: the worst one that decides, and `reported` only if no check decides."""
    verdicts = {facts["verdict"] for _, facts in found}
    return next((verdict for verdict in ("fail", "not_applicable", "pass") if verdict in verdicts), "reported")


def _under(name: str, checks: dict[str, dict]) -> Iterator[tuple[str, dict]]:
    """The checks of one condition, in its order; checks without a condition are under the rules."""
    named = [check for _, _, members in CONDITIONS.values() for check in members]
    members = CONDITIONS[name][2] or [check for check in checks if check not in named]
    yield from ((check, checks[check]) for check in members if check in checks)


def _head(certificate: dict) -> dict[str, str]:
    conditions = {name: list(_under(name, certificate["checks"])) for name in CONDITIONS}
    return {
        "conditions": ", ".join(f"{name} {VERDICTS[condition(found)]}" for name, found in conditions.items() if found),
        "score": _score(certificate),
        "referee": f"protocol {certificate['referee']['protocol']}, jail {certificate['referee']['jail']}",
        "drawn": f"{certificate['drawn']}, after the claim was fixed",
        "evaluator": certificate["evaluator"],
        "claims": ", ".join(certificate["claims"]) or "nothing",
        "precision": certificate["precision"],
        "significance": certificate["significance"],
        "artifact": f"sha256 {certificate['artifact_sha256']}",
        "text": f"sha256 {certificate['text_sha256']}",
    }


def _score(certificate: dict) -> str:
    most = certificate["at_most_bits_per_byte"]
    said = "no limit is certified" if most is None else f"at most {most:.6f} bits per byte with {certificate['confidence']:.0%} confidence"
    return f"{said}; {certificate['bits_per_byte']:.6f} are claimed"


def _shown(check: str, facts: dict) -> dict:
    """A check as the page shows it."""
    rows = {
        "looked at": _count(facts) and f"{_count(facts)} positions",
        "largest deviation": _deviation(facts),
        "proves": facts["proves"],
        "cannot see": facts["cannot_see"],
        "precedent": facts["precedent"],
    }
    numbers = {page.words(str(name)): _value(value) for name, value in facts["evidence"].items() if name != "reason"}
    return {
        "name": check,
        "verdict": facts["verdict"],
        "reason": facts["evidence"].get("reason"),
        "rows": {name: value for name, value in rows.items() if value},
        "numbers": numbers,
    }


def _count(facts: dict) -> str:
    return "" if facts["positions"] is None else f"{facts['positions']:,}"


def _deviation(facts: dict) -> str:
    value = facts["largest_deviation"]
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _value(value) -> str:
    """A fact in words: numbers with separators, nested facts in a row."""
    if isinstance(value, dict):
        return "; ".join(f"{str(name).replace('_', ' ')} {_value(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        shown = ", ".join(_value(item) for item in value[:20]) or "none"
        return f"{shown}, and {len(value) - 20} more" if len(value) > 20 else shown
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text) -> str:
    """One line, and nothing that Markdown or HTML would take for more than text."""
    return " ".join(str(text).split()).replace("<", "&lt;").replace("`", "'")
