"""Build the table of checks in docs/certification.md from the checks, and the ledger in docs/reading-submissions.md from the rulings.

python -m stages.audit.documentation            exit code 1 if a page has another table
python -m stages.audit.documentation --write    write them into the pages
"""

import importlib
import re
import sys
from pathlib import Path

from stages.audit import certificate
from stages.audit.submission import rulings
from stages.lib.node import closure, command, files

PAGE, READING = closure.ROOT / "docs/certification.md", closure.ROOT / "docs/reading-submissions.md"
BEGIN, END = "<!-- checks: python -m stages.audit.documentation --write -->", "<!-- end of checks -->"
LEDGER, LEDGER_END = "<!-- rulings: python -m stages.audit.documentation --write -->", "<!-- end of rulings -->"


def table() -> str:
    """The table: one block per condition, one row per file of checks/."""
    names = sorted(path.stem for path in (Path(__file__).parent / "checks").glob("*.py") if path.stem != "__init__")
    named = [name for _, _, members in certificate.CONDITIONS.values() for name in members]
    lines = []
    for condition, (title, words, members) in certificate.CONDITIONS.items():
        lines += ["", f"**{condition}: {title}.** {words}", "", "| check | a pass shows | it cannot see | precedent |", "|---|---|---|---|"]
        for name in members or [name for name in names if name not in named]:
            module = importlib.import_module(f"stages.audit.checks.{name}")
            test = re.match(r"([TS]\d+)[:.]", module.__doc__) or re.search(r"\((T\d+)\)", module.__doc__)
            cells = [f"`{name}`" + (f" ({test[1]})" if test else ""), module.PROVES, module.CANNOT_SEE, module.PRECEDENT]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def ledger() -> str:
    """The table of rulings, one row for each pull request."""
    lines = ["", "| pull request | date | state | reason | what it is | source |", "|---|---|---|---|---|---|"]
    for row in sorted(rulings.table().values(), key=lambda row: row.pull_request):
        score = f" Accepted: {row.score}." if row.score else ""
        lines.append(f"| #{row.pull_request} | {row.date} | {row.state} | {row.reason} | {row.text}{score} | {row.source} |")
    return "\n".join([*lines, ""])


def page(text: str, begin: str = BEGIN, end: str = END, content: str | None = None) -> str:
    """The page with the current table in it. ValueError if the page has no place for the table."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no lines {begin!r} and {end!r}; its table stands between them")
    return f"{before}{begin}\n{table() if content is None else content}\n{end}{after}"


def pages() -> dict[Path, str]:
    """Each page with its table as it should be."""
    certification, reading = (path.read_text(encoding="utf-8") for path in (PAGE, READING))
    return {PAGE: page(certification), READING: page(reading, LEDGER, LEDGER_END, ledger())}


if __name__ == "__main__":
    with command.sentences("audit.documentation"):
        for path, text in pages().items():
            if "--write" in sys.argv[1:]:
                with files.atomic(path) as partial:
                    partial.write_text(text, encoding="utf-8")
            elif text != path.read_text(encoding="utf-8"):
                sys.exit(f"docs/{path.name} differs from the code; run: python -m stages.audit.documentation --write")
