"""What a corpus costs when `prepare` and `tokenize` are run in parts: core seconds of the parts and of putting them together.

    python benchmarks/parts_speed.py                      200 MB of the built-in text, repeated, in 4 parts
    python benchmarks/parts_speed.py --path a.jsonl.xz --megabytes 50 --parts 2

Each part is a command of its own with one process, as a scheduler would start it. Core seconds (user and system time of the command and its
children) say more than the clock on a machine that does other work too; both are printed. The table also has what 1 TB (10^12 bytes of
text) would take at these rates: the parts can run at the same time, what puts them together cannot. The files are in the page cache, so a
file system that is slower than the rates below is the limit instead.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import resource
import subprocess
import tempfile
import time

import tqdm

from benchmarks.tokenize_speed import hardware, pipeline, repeated, source, started, train_tokenizers, write
from stages.lib.node import command, files, params

TERABYTE = 1e12
SPLITS = ("train", "holdout", "val")


def spent(folder: Path, node: str, *argv: str) -> tuple[float, float]:
    """Seconds of the clock and of cores that one command takes, with one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(**started(folder, 1, node, *argv), stdout=subprocess.PIPE, text=True, check=False)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"stages.{node} {' '.join(argv)} failed:\n{done.stdout}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def total(runs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(clock for clock, _ in runs), sum(core for _, core in runs)


def md5(folder: Path) -> tuple[float, float]:
    """What DVC does with every file that it caches, before it links or copies it."""
    start, before = time.monotonic(), time.process_time()
    for path in folder.rglob("*"):
        if path.is_file():
            files.md5(path)
    return time.monotonic() - start, time.process_time() - before


def row(name: str, runs: tuple[float, float], num_bytes: int, *, together: bool) -> str:
    clock, core = runs
    hours = core / num_bytes * TERABYTE / 3600
    takes = f"{hours:,.1f} hours of one core" if together else f"{hours:,.0f} core hours, divided by the cores of all machines"
    return f"| {name} | {num_bytes / clock / 1e6:.1f} | {num_bytes / core / 1e6:.1f} | {takes} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, action="append", default=[], help="documents, may be repeated (default: the built-in text)")
    parser.add_argument("--megabytes", type=float, default=200, help="MB of text; less is repeated (default: 200)")
    parser.add_argument("--parts", type=int, default=4, help="number of parts (default: 4)")
    arguments = parser.parse_args()
    tqdm.tqdm.monitor_interval = 0
    with command.sentences("benchmarks/parts_speed.py"), tempfile.TemporaryDirectory(prefix="caddie-") as name:
        params.require(arguments.megabytes > 0 and arguments.parts > 0, "--megabytes and --parts take positive numbers")
        folder, num_bytes, of = Path(name), round(arguments.megabytes * 1e6), str(arguments.parts)
        once = write(folder / "once.jsonl", source([path.resolve() for path in arguments.path]), num_bytes)
        model = train_tokenizers(once, None, folder)["lossless"]
        text = write(folder / "text.jsonl", repeated(once), num_bytes)
        place = pipeline(folder / "run", text)
        load = os.getloadavg()[0]
        numbers = [str(part + 1) for part in range(arguments.parts)]
        rows = []
        parts = total([spent(place, "prepare", "--part", number, "--of", of) for number in numbers])
        rows.append(row("`prepare`, parts", parts, text.num_bytes, together=False))
        rows.append(row("`prepare`, put together", spent(place, "prepare"), text.num_bytes, together=True))
        place.joinpath("artifacts/vocabulary").mkdir()
        place.joinpath("artifacts/vocabulary/tokenizer.model").write_bytes(model.read_bytes())
        parts = total([spent(place, "tokenize", split, "--part", number, "--of", of) for split in SPLITS for number in numbers])
        rows.append(row("`tokenize`, parts", parts, text.num_bytes, together=False))
        merged = total([spent(place, "tokenize", split) for split in SPLITS])
        rows.append(row("`tokenize`, put together", merged, text.num_bytes, together=True))
        rows.append(row("DVC's MD5 of the outputs", md5(place / "artifacts"), text.num_bytes, together=True))
        print(
            f"{text.documents:,} documents, {text.num_bytes / 1e6:.0f} MB, of which {once.num_bytes / 1e6:.0f} MB differ; {of} parts; "
            f"n = 1, load average {load:.1f}. {hardware()}\n\n| | MB/s by the clock | MB per core second | 1 TB |\n|---|---:|---:|---|"
        )
        print("\n".join(rows))


if __name__ == "__main__":
    main()
