"""Build the table of checks in docs/certification.md from the sentences in the checks.

python -m stages.audit.documentation            exit code 1 if the page has another table
python -m stages.audit.documentation --write    write it into the page
"""

import importlib
import re
import sys
from pathlib import Path

from stages.audit import certificate
from stages.lib.node import closure, command, files

PAGE = closure.ROOT / "docs/certification.md"
BEGIN, END = "<!-- checks: python -m stages.audit.documentation --write -->", "<!-- end of checks -->"


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


def page(text: str) -> str:
    """The page with the current table in it. ValueError if the page has no place for the table."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no lines {BEGIN!r} and {END!r}; the table of checks stands between them")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    with command.sentences("audit.documentation"):
        written = PAGE.read_text(encoding="utf-8")
        if "--write" in sys.argv[1:]:
            with files.atomic(PAGE) as partial:
                partial.write_text(page(written), encoding="utf-8")
        elif page(written) != written:
            sys.exit("docs/certification.md differs from the checks; run: python -m stages.audit.documentation --write")
