"""What does each node of the default cost? Seconds, CPU seconds, memory and bytes, in a copy of this working tree or of a revision.

    python benchmarks/nodes.py                         this working tree
    python benchmarks/nodes.py --against 1f64d88       that revision too, first, in the same run
    python benchmarks/nodes.py --write                 put the table into docs/pipeline.md

The nodes run one after the other, each by `dvc repro --single-item`, so about two seconds of each are DVC's own; `dvc repro` starts once.
What is measured, and how, is that of benchmarks/rehearse.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import datetime
import shutil
import subprocess

from benchmarks import rehearse
from benchmarks.default_run import hardware
from benchmarks.recipes import copy_tree

PAGE = ROOT / "docs/pipeline.md"
START, END = "<!-- nodes: benchmarks/nodes.py --write -->", "<!-- end of nodes -->"


def measured(folder: Path, revision: str | None) -> dict[str, rehearse.Cost]:
    """The costs of all nodes, in a new copy."""
    shutil.rmtree(folder, ignore_errors=True)
    if revision is None:
        folder.mkdir(parents=True)
        copy_tree(folder)
    else:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        subprocess.run(["git", "checkout", "--quiet", revision], check=True, cwd=folder)
    return {cost.node: cost for cost in rehearse.run(folder)}


def table(now: dict[str, rehearse.Cost], before: dict[str, rehearse.Cost], revision: str | None) -> str:
    head = "| node | seconds | CPU seconds | memory, MB | bytes |" + (f" seconds at {revision} |" if before else "")
    lines = [head, "|---|---:|---:|---:|---:|" + "---:|" * bool(before)]
    for node in [*now, *(name for name in before if name not in now)]:
        cost, old = now.get(node), before.get(node)
        cells = (
            [f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}", f"{cost.peak_bytes / 1e6:,.0f}", f"{cost.output_bytes:,}"]
            if cost
            else [""] * 4
        )
        lines.append(f"| `{node}` | " + " | ".join(cells + [f"{old.seconds:.1f}" if old else ""] * bool(before)) + " |")
    sums = [f"{sum(getattr(cost, what) for cost in now.values()):.0f}" for what in ("seconds", "cpu_seconds")]
    most = f"{max(cost.peak_bytes for cost in now.values()) / 1e6:,.0f}"
    old = [f"{sum(cost.seconds for cost in before.values()):.0f}"] * bool(before)
    lines += ["| all | " + " | ".join([*sums, f"at most {most}", "", *old]) + " |", ""]
    return "\n".join([*lines, f"n = 1, {hardware()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REVISION", help="measure this revision too")
    parser.add_argument("--write", action="store_true", help="put the table between the markers of docs/pipeline.md")
    arguments = parser.parse_args()
    before = measured(ROOT / "scratch/nodes/before", arguments.against) if arguments.against else {}
    text = table(measured(ROOT / "scratch/nodes/now", None), before, arguments.against)
    print(text)
    if arguments.write:
        page = PAGE.read_text()
        PAGE.write_text(f"{page.split(START)[0]}{START}\n\n{text}\n\n{END}{page.split(END)[1]}")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/nodes.py"):
        main()
