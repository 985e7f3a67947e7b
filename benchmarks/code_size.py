"""Counted bytes of the one script of every stack beside the published script's: the table in docs/submission.md.

    python benchmarks/code_size.py                  all stacks, and params.yaml as it is: ten seconds each
    python benchmarks/code_size.py pr1855 pr1493    these
    python benchmarks/code_size.py --write          all, into docs/submission.md

Both are scripts that train, quantize, compress and score. Published sizes are those of the logs; some stacks handed in plain source.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse

PAGE, BEGIN, END = ROOT / "docs/submission.md", "<!-- code sizes: benchmarks/code_size.py -->", "<!-- end of code sizes -->"
HEAD = ["| stack | one script, bytes | published, bytes | ratio | before packing |", "|---|---:|---:|---:|---:|"]


def row(name: str) -> str:
    from stages.lib.node import params
    from stages.recipes import catalog
    from stages.script import packing

    tree = params.read(ROOT / "params.yaml")
    tree = tree if name == "default" else catalog.applied(catalog.values(name, tree), tree)
    contents = packing.contents(tree)
    size, published = len(packing.wrapped(contents).encode()), catalog.read_header(name).script_bytes if name != "default" else None
    beside = f"{published:,} | {size / published:.2f}" if published else "|"
    return f"| {name} | {size:,} | {beside} | {sum(len(text.encode()) for text in contents.values()):,} |"


def main() -> None:
    from stages.recipes import catalog

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="stacks (default: all)")
    parser.add_argument("--write", action="store_true", help="into docs/submission.md; needs all stacks")
    arguments = parser.parse_args()
    if arguments.write and arguments.names:
        parser.error("--write needs all stacks; leave the names out")
    lines = list(HEAD)
    print("\n".join(lines))
    for name in arguments.names or ["default", *catalog.stacks()]:
        lines.append(row(name))
        print(lines[-1], flush=True)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/code_size.py"):
        main()
