"""A certificate as a page that a reviewer can print, and as Markdown for a README: the same facts as certificate.json, no others.

The page is one file without script, font or network, light and dark. Checks stand under the condition of the field that they test; one
that is not named here stands under the rules, so that a new check needs no change.
"""

from collections.abc import Iterator
from html import escape

CONDITIONS = {
    "C1": ("Strict causal dependence", "Each distribution is a function of the artifact and of earlier tokens alone.",
           ("future_flip", "target_flip", "prefix_truncation", "declared_length", "streaming_equals_batch", "documents_apart", "lineage",
            "split_overlap", "memorization", "rerun")),
    "C2": ("Full normalized distribution", "Before the token is looked at, every token has a probability and they sum to one.",
           ("normalization", "black_box_sum")),
    "C3": ("Score before update", "A token's score is fixed before anything that depends on it changes.", ("order",)),
    "C4": ("Single left-to-right pass", "One traversal, each target once, nothing scored again or chosen among runs.",
           ("round_trip", "byte_count")),
    "Rules": ("Rules of the competition", "Size, time, network, the same result again and on any number of processes.", ()),
}
VERDICTS = {"pass": "pass", "fail": "fail", "not_applicable": "could not be done", "reported": "reported"}
MEANING = {
    "legal": "Every check passed. What none of them can see is said beside each.",
    "not legal": "At least one check fails.",
    "not ruled": "No check fails, but at least one could not be done."}
STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f4; --card: #fff; --ink: #1b2420; --muted: #5d6a63; --line: #dde2dc;
  --good: #1c6b8a; --bad: #a8471c; --plain: #6a6f6c; }
@media (prefers-color-scheme: dark) { :root { --ground: #111614; --card: #19201d; --ink: #e4eae6; --muted: #98a69e; --line: #303a35;
  --good: #6fc0e2; --bad: #f0a073; --plain: #a7afab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5; overflow-wrap: anywhere;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0; } h3 { font-size: 15px; margin: 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px; margin-top: 16px; }
article { border-top: 1px solid var(--line); padding: 12px 0; }
article:last-child { padding-bottom: 0; }
p { margin: 4px 0; } .muted { color: var(--muted); font-size: 14px; }
.word { font-weight: 700; } .pass, .legal { color: var(--good); } .fail, .not-legal { color: var(--bad); }
.open, .not-ruled { color: var(--plain); }
dl { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 2px 16px; margin: 8px 0; font-size: 14px; }
dt { color: var(--muted); } dd { margin: 0; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; }
@media (max-width: 480px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 4px; } }
@media print { body { background: #fff; color: #000; } section { border-color: #999; } article { break-inside: avoid; } }
"""


def html(certificate: dict) -> str:
    """The page. Everything that comes from the certificate is escaped."""
    verdict = certificate["verdict"]
    head = _definitions(_head(certificate))
    parts = [f"<header><h1>{escape(certificate['run'])}: <span class=\"{verdict.replace(' ', '-')}\">{escape(verdict)}</span></h1>"
             f"<p>{escape(MEANING[verdict])}</p>{head}</header>"]
    for name, (title, words, _) in CONDITIONS.items():
        found = list(_under(name, certificate["checks"]))
        if found:
            articles = "".join(_article(check, facts) for check, facts in found)
            parts.append(f"<section><h2>{escape(name)}: {escape(title)} {_word(condition(found))}</h2>"
                         f'<p class="muted">{escape(words)}</p>{articles}</section>')
    title = f"{escape(certificate['run'])}: {escape(verdict)}"
    return (f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            f'initial-scale=1"><title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n' + "\n".join(parts)
            + "\n</main></body>\n</html>\n")


def markdown(certificate: dict) -> str:
    """The same for a README."""
    lines = [f"# {certificate['run']}: {certificate['verdict']}", "", MEANING[certificate["verdict"]], ""]
    lines += [f"* {name}: {value}" for name, value in _head(certificate).items()]
    for name, (title, words, _) in CONDITIONS.items():
        found = list(_under(name, certificate["checks"]))
        if not found:
            continue
        lines += ["", f"## {name}: {title}: {VERDICTS[condition(found)]}", "", words, "",
                  "| check | verdict | positions | largest deviation | proves | cannot see | precedent |",
                  "|---|---|---:|---:|---|---|---|"]
        for check, facts in found:
            cells = [check, VERDICTS.get(facts["verdict"], facts["verdict"]), _count(facts), _deviation(facts), facts["proves"],
                     facts["cannot_see"], facts["precedent"]]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines += [f"\n{check}: {_plain(facts['evidence']['reason'])}" for check, facts in found if facts["evidence"].get("reason")]
    return "\n".join(lines) + "\n"


def condition(found: list[tuple[str, dict]]) -> str:
    """The verdict of several checks together: the worst that decides; `reported` only where nothing else was done."""
    verdicts = {facts["verdict"] for _, facts in found}
    return next((verdict for verdict in ("fail", "not_applicable", "pass") if verdict in verdicts), "reported")


def _under(name: str, checks: dict[str, dict]) -> Iterator[tuple[str, dict]]:
    """The checks of one condition in their order there; those of none are under the rules."""
    named = [check for _, _, members in CONDITIONS.values() for check in members]
    members = CONDITIONS[name][2] or [check for check in checks if check not in named]
    yield from ((check, checks[check]) for check in members if check in checks)


def _head(certificate: dict) -> dict[str, str]:
    conditions = {name: list(_under(name, certificate["checks"])) for name in CONDITIONS}
    return {
        "conditions": ", ".join(f"{name} {VERDICTS[condition(found)]}" for name, found in conditions.items() if found),
        "score": f"{certificate['bits_per_byte']:.6f} bits per byte", "evaluator": certificate["evaluator"],
        "claims": ", ".join(certificate["claims"]) or "nothing", "significance": certificate["significance"],
        "artifact": f"sha256 {certificate['artifact_sha256']}", "text": f"sha256 {certificate['text_sha256']}"}


def _article(check: str, facts: dict) -> str:
    rows = {"looked at": _count(facts) and f"{_count(facts)} positions", "largest deviation": _deviation(facts), "proves": facts["proves"],
            "cannot see": facts["cannot_see"], "precedent": facts["precedent"]}
    reason = facts["evidence"].get("reason")
    numbers = {name: _value(value) for name, value in facts["evidence"].items() if name != "reason"}
    return (f"<article><h3>{escape(check.replace('_', ' '))} {_word(facts['verdict'])}</h3>"
            + (f"<p>{escape(str(reason))}</p>" if reason else "") + _definitions({name: value for name, value in rows.items() if value})
            + f"<details><summary class=\"muted\">the numbers</summary>{_definitions(numbers)}</details></article>")


def _word(verdict: str) -> str:
    kind = verdict if verdict in ("pass", "fail") else "open"
    return f'<span class="word {kind}">{escape(VERDICTS.get(verdict, verdict))}</span>'


def _definitions(facts: dict[str, str]) -> str:
    rows = (f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


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
