"""gpu.md: the page of the results, from gpu.json alone.

python -m benchmarks.gpu.page scratch/gpu/gpu.json          write it again
"""

import ast
import sys
from pathlib import Path

from benchmarks.gpu.parts import PARTS
from stages.lib.node import files

FORMS = {
    "cuda": "These are the results of `make gpu`.",
    "cpu": "This is the CPU form of `make gpu`, which `make gpu-cpu` runs. It has small sizes and shows only that the code runs. "
    "No figure below says anything about a GPU.",
}


def write(record: Path) -> None:
    """Write gpu.md beside gpu.json."""
    with files.atomic(record.with_suffix(".md")) as partial:
        partial.write_text(text(files.read_json(record)), encoding="utf-8")


def text(content: dict) -> str:
    machine = content["machine"]
    lines = ["# Results on a GPU" if content["device"] == "cuda" else "# Results of the CPU form", ""]
    lines += [f"{FORMS[content['device']]} {verdict(content)} [gpu-run.md](gpu-run.md) says what each part measures.", ""]
    lines += ["## Machine", "", "| fact | value |", "|---|---|"]
    lines += [f"| {what} | {'-' if value is None else value} |" for what, value in machine.items()]
    for name in PARTS:
        if name in content["parts"]:
            lines += ["", f"## {name}", "", *part(name, content["parts"][name])]
    return "\n".join(lines) + "\n"


def part(name: str, found: dict) -> list[str]:
    """The sentences and the table of one part."""
    lines = [f"{purpose(name)} Status: {found['status']}, {found['seconds']} s.{' ' * bool(found['error'])}{code(found['error'])}"]
    if found["rows"]:
        lines += ["", "| what | value | unit | goal | holds |", "|---|---:|---|---|---|"]
        lines += [f"| {' | '.join(map(cell, row.values()))} |" for row in found["rows"]]
    return lines


def code(sentence: str | None) -> str:
    return f"`{sentence.replace('`', chr(39))}`" if sentence else ""


def cell(value) -> str:
    """A value as the text of a table's cell: truth as yes or no, large numbers with commas, others with four digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def verdict(content: dict) -> str:
    """One sentence about all parts together."""
    parts = content["parts"]
    goals = [row["holds"] for found in parts.values() for row in found["rows"] if row["holds"] is not None]
    rest = [f"{name} ({parts[name]['status'] if name in parts else 'never run'})" for name in PARTS if not is_done(parts, name)]
    return (
        f"{len(PARTS) - len(rest)} of {len(PARTS)} parts are done, and {sum(goals)} of {len(goals)} goals are reached"
        f"{'; not done: ' * bool(rest)}{', '.join(rest)}."
    )


def holds(content: dict) -> bool:
    """Whether every part that was run is done and reached its goals."""
    return all(found["status"] == "done" and all(row["holds"] is not False for row in found["rows"]) for found in content["parts"].values())


def is_done(parts: dict, name: str) -> bool:
    return name in parts and parts[name]["status"] == "done"


def purpose(name: str) -> str:
    tree = ast.parse((Path(__file__).parent / f"parts/{name}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree).splitlines()[0]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
