"""Write audits for people and programs: text of one folder, tables as text, CSV, Markdown and HTML, a comment in Markdown. All are made
from the JSON objects of document.py, whose texts hold no control characters."""

import csv
import html
import io

MARKS = {"pass": "ok", "fail": "FAIL", "doubt": "doubt", "unknown": "?"}
COLUMNS = (
    "folder",
    "track",
    "pull_request",
    "verdict",
    "proved",
    "suggested",
    "decided",
    "runs",
    "bits_per_byte",
    "deviation",
    "largest_bytes",
)
CHECKS = ("size", "bytes", "claims", "score", "seeds", "training", "evaluation", "lineage", "overlap", "documents")
ORDER = ("unknown", "pass", "doubt", "fail")


def row(document: dict) -> dict[str, object]:
    """One row of a table."""
    scores = [
        run["score"]["bits_per_byte"] for run in document["runs"] if run["score"] and isinstance(run["score"]["bits_per_byte"], float)
    ]
    mean = sum(scores) / len(scores) if scores else None
    deviation = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5 if len(scores) > 1 else None
    sizes = [run["total_bytes"] for run in document["runs"] if run["total_bytes"]]
    decided = document["decided"]
    worst = {finding["check"]: finding["verdict"] for order in ORDER for finding in document["findings"] if finding["verdict"] == order}
    values = (
        document["folder"],
        document["track"],
        document["pull_request"],
        document["verdict"],
        ", ".join(document["proved"]),
        ", ".join(document["suggested"]),
        ", ".join(filter(None, (decided["state"], decided["date"], decided["reason"]))) if decided else "",
        len(scores),
        float(f"{mean:.7g}") if mean is not None else None,
        float(f"{deviation:.4g}") if deviation is not None else None,
        max(sizes) if sizes else None,
    )
    significance = document["significance"]
    return (
        dict(zip(COLUMNS, values, strict=True))
        | {check: worst.get(check, "") for check in CHECKS}
        | {"p": significance["p"] if significance else None}
    )


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def table_csv(documents: list[dict]) -> str:
    """CSV; a text that a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    rows = [row(document) for document in documents]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for values in rows:
        writer.writerow(
            {name: f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value for name, value in values.items()}
        )
    return out.getvalue()


def table_text(documents: list[dict]) -> str:
    names = ("folder", "verdict", "proved", "suggested", "decided", "runs", "bits_per_byte", "largest_bytes")
    rows = [[_cell(row(document)[name]) for name in names] for document in documents]
    widths = [min(60, max(len(name), *(len(cells[place]) for cells in rows))) for place, name in enumerate(names)]
    lines = [names, *rows]
    return "\n".join("  ".join(cell[:width].ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in lines)


def _markdown(text: object) -> str:
    """Text that Markdown shows as it is: no markup, no mention of a person."""
    plain = html.escape(_cell(text), quote=False)
    for sign in "\\`*_[]|":
        plain = plain.replace(sign, f"\\{sign}")
    return plain.replace("@", "&#64;")


def table_markdown(documents: list[dict]) -> str:
    names = ("folder", "verdict", "proved", "suggested", "decided", "bits_per_byte")
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_markdown(row(document)[name]) for name in names) + " |" for document in documents]
    return "\n".join(lines) + "\n"


def _places(finding: dict) -> str:
    lines = ", ".join(map(str, finding["lines"][:6]))
    place = finding["file"] + (f", line{'s' if len(finding['lines']) > 1 else ''} {lines}" if lines else "")
    return f" [{place}]" if place else ""


def _seed(finding: dict) -> str:
    return "" if finding["seed"] is None else f"seed {finding['seed']}: "


def columns(document: dict) -> list[tuple[str, str]]:
    """The three answers, each in words."""
    decided = document["decided"]
    if decided:
        reason = f" ({decided['reason']})" if decided["reason"] else ""
        date = f", {decided['date']}" if decided["date"] else ""
        said = f"{decided['state']}{reason}{date}: {decided['text']} Source: {decided['source']}."
        if decided["found"] is not None:
            said += f" This reason was {'found' if decided['found'] else 'not found'} here."
    elif document["pull_request"]:
        said = f"no ruling on #{document['pull_request']} is in the table"
    else:
        said = "the folder's pull request is not known; name it with --pr"
    return [
        ("proved", ", ".join(document["proved"]) or "nothing against it"),
        ("suggested", ", ".join(document["suggested"]) or "nothing against it"),
        ("decided", said),
    ]


def text(document: dict) -> str:
    """Everything about one folder, for a terminal."""
    lines = [f"{document['folder']}: {document['verdict']}", ""]
    lines += [f"  {name:9}  {said}" for name, said in columns(document)]
    lines.append("")
    for run in document["runs"]:
        name = f"seed {run['seed']}" if run["seed"] is not None else (run["logs"][0]["file"] if run["logs"] else "a run")
        score = run["score"]
        if score:
            claimed = "as claimed" if score["is_claimed"] else "the last pass"
            size = f", {run['total_bytes']:,} bytes (line {run['total_bytes_line']})" if run["total_bytes"] else ""
            lines.append(
                f"  {name}: {score['bits_per_byte']} bits per byte ({score['pass']}, {claimed}; {score['file']}, "
                f"line {score['line']}){size}"
            )
        for log in run["logs"]:
            read = [
                f"{key.replace('_', ' ')} {entry['value']:,} (line {entry['line']})"
                for key, entry in log["numbers"].items()
                if isinstance(entry["value"], int | float)
            ]
            read += [
                f"{phase} {entry['seconds']:.1f} s (line {', '.join(map(str, entry['lines'][:3]))})"
                for phase, entry in log["seconds"].items()
            ]
            if read:
                lines.append(f"    {log['file']}: {'; '.join(read)}")
    lines.append("")
    for finding in document["findings"]:
        lines.append(f"  {MARKS[finding['verdict']]:5} {finding['check']:12} {_seed(finding)}{finding['text']}{_places(finding)}")
    if document["hints"]:
        lines += ["", "  What the code suggests; hints only, they decide nothing:"]
        lines += [f"  {'-' if hint['against'] else '+'} {hint['kind']}: {hint['where']}: {hint['text']}" for hint in document["hints"]]
    return "\n".join(lines)


def comment(document: dict) -> str:
    """A comment for a pull request, in Markdown, with the evidence folded in."""
    lines = [f"**{_markdown(document['folder'])}: {_markdown(document['verdict'])}**", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_markdown(said)} |" for name, said in columns(document)]
    against = [finding for finding in document["findings"] if finding["verdict"] in ("fail", "doubt")]
    lines += [
        "",
        *(
            f"- {MARKS[finding['verdict']]} {finding['check']}: {_markdown(_seed(finding) + finding['text'] + _places(finding))}"
            for finding in against
        ),
    ]
    lines += [
        f"- {_markdown(hint['kind'])}: {_markdown(hint['where'])}: {_markdown(hint['text'])}"
        for hint in document["hints"]
        if hint["against"]
    ]
    rest = [finding for finding in document["findings"] if finding["verdict"] in ("pass", "unknown")]
    lines += ["", "<details><summary>What else was read</summary>", ""]
    lines += [
        f"- {MARKS[finding['verdict']]} {finding['check']}: {_markdown(_seed(finding) + finding['text'] + _places(finding))}"
        for finding in rest
    ]
    lines += [
        f"- {_markdown(hint['kind'])}: {_markdown(hint['where'])}: {_markdown(hint['text'])}"
        for hint in document["hints"]
        if not hint["against"]
    ]
    lines += ["", "</details>", "", "Only arithmetic on the folder's files proves; hints from the code decide nothing. No code was run."]
    return "\n".join(lines) + "\n"


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Audit of {count} submissions</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; background: #fff }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ border-bottom: 1px solid #ccc; padding: .4em; text-align: left; vertical-align: top }}
.fail {{ color: #a00; font-weight: bold }} .doubt {{ color: #850 }} summary {{ cursor: pointer }} li {{ overflow-wrap: anywhere }}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #161616 }} .fail {{ color: #f88 }} .doubt {{ color: #eb6 }} }}
</style>
<h1>Audit of {count} submissions</h1>
<p>Proved: arithmetic on the folder's files. Suggested: what code and logs show, for a person to judge.
Decided: what the organizers ruled.</p>
<table><thead><tr><th>folder</th><th>verdict</th><th>proved</th><th>suggested</th>
<th>decided</th><th>bits per byte</th></tr></thead><tbody>
{rows}
</tbody></table></html>
"""


def table_html(documents: list[dict]) -> str:
    rows = []
    for document in documents:
        values = row(document)
        items = "".join(
            f'<li class="{finding["verdict"]}">{MARKS[finding["verdict"]]} {html.escape(finding["check"])}: '
            f"{html.escape(_seed(finding) + finding['text'] + _places(finding))}</li>"
            for finding in document["findings"]
        )
        items += "".join(
            f'<li class="{"doubt" if hint["against"] else "pass"}">{html.escape(hint["kind"])}: '
            f"{html.escape(hint['where'])}: {html.escape(hint['text'])}</li>"
            for hint in document["hints"]
        )
        evidence = f"<details><summary>{html.escape(document['folder'])}</summary><ul>{items}</ul></details>"
        cells = "".join(
            f"<td>{html.escape(_cell(values[name]))}</td>" for name in ("verdict", "proved", "suggested", "decided", "bits_per_byte")
        )
        rows.append(f"<tr><td>{evidence}</td>{cells}</tr>")
    return PAGE.format(count=len(documents), rows="\n".join(rows))
