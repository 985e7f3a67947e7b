"""The README's table of peers: every general-purpose compressor on the val text, alone and after the train text, with seconds and memory.

    python benchmarks/text_compressors.py                                 the text of artifacts/prepare; one compressor after the other
    python benchmarks/text_compressors.py --compressors ppmd_16 zpaq_5    only these
    python benchmarks/text_compressors.py --write                         also put the table into README.md, with today's date

The default run measures the strongest two after the train text and leaves the others out, which would take a further minute of a core.
Bytes are exact, seconds and memory are of one run each (n = 1). `core seconds` are those that the processor worked on it; `seconds` are by
the clock, for train and val as one text.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import datetime
import os
import platform

from stages.lib.node import params
from stages.lib.text import corpus
from stages.text_compressors import compressors
from stages.text_compressors.compressors import Job, Run

START, END = "<!-- peers: benchmarks/text_compressors.py --write -->", "<!-- end of peers -->"


def table(runs: dict[Job, Run], val: bytes, train: bytes) -> str:
    """The rows of the compressors, the largest after train first."""
    rows = []
    for name in {job.compressor: None for job in runs}:
        alone, train_alone, together = (runs[Job(name, text)] for text in ("val", "train", "train_val"))
        rows.append((8 * (together.bytes - train_alone.bytes) / len(val), name, alone, together))
    lines = [
        "| compressor | bits per byte of val alone | after the train text | seconds | core seconds | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for after, name, alone, together in sorted(rows, reverse=True):
        lines.append(
            f"| {name} | {8 * alone.bytes / len(val):.4f} | {after:.4f} | {together.seconds:.1f} | {together.core_seconds:.1f} | "
            f"{max(alone.peak_bytes, together.peak_bytes) / 1e6:,.0f} |"
        )
    return "\n".join(lines)


def machine() -> str:
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, load average {load:.0f} at the end"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressors", nargs="+", default=list(compressors.COMPRESSORS), help="default: all that are installed")
    parser.add_argument("--at-a-time", type=int, default=1, help="how many run at a time (default: 1)")
    parser.add_argument("--write", action="store_true", help="put the table between the markers of README.md")
    arguments = parser.parse_args()
    compressors.check(arguments.compressors)
    absent = compressors.absent(arguments.compressors)
    names = [name for name in arguments.compressors if name not in absent]
    for name, reason in absent.items():
        print(f"{name}: {reason}", file=sys.stderr)
    prepared = ROOT / "artifacts/prepare"
    val = "".join(corpus.texts(prepared / "val")).encode()
    train_bytes = params.lookup(params.read(ROOT / "params.yaml"), "text_compressors.train_bytes")
    train = "".join(corpus.last_texts(prepared / "train", train_bytes)).encode()
    runs = {}
    for job, took in compressors.measure(names, names, val, train, workers=arguments.at_a_time):
        runs[job] = took
        print(f"{job.compressor} on {job.text}: {took}", file=sys.stderr, flush=True)
    text = (
        f"{table(runs, val, train)}\n\nVal has {len(val):,} bytes (sha256 {corpus.facts(prepared / 'val')['sha256'][:12]}), the train text "
        f"before it {len(train):,}. {datetime.date.today()}, {machine()}, n = 1."
    )
    print(text)
    if arguments.write:
        readme = ROOT / "README.md"
        before, rest = readme.read_text().split(START)
        readme.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/text_compressors.py"):
        main()
