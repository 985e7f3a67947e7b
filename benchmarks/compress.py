"""How small and how fast does the artifact compress files, on one core? Beside it the strongest settings of xz and zstd.

    python benchmarks/compress.py TEXT                                          the first 1 kB, 10 kB, 100 kB and 1 MB of the file TEXT
    python benchmarks/compress.py TEXT --sizes 100000 --rounds 3 --evaluator streaming --options '{"window": 96, "block": 1}'

Each size is compressed and decompressed `--rounds` times, and the file must come back. kB/s are CPU seconds of the process, which what else
the machine does moves little: `whole` with the start of Python, torch, weights and memory, and `without start`, where the seconds to
compress a file of one byte are taken away. Every number is the median of the rounds with the smallest and the largest.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import platform
import resource
import statistics
import subprocess
import tempfile

from stages.text_compressors import compressors

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def seconds(command: list[str]) -> float:
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def coded(artifact: Path, content: bytes, more: list[str]) -> tuple[int, float, float]:
    """Bytes of the compressed file, and CPU seconds of both directions. SystemExit if the file does not come back."""
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder, "file"), Path(folder, "again")
        path.write_bytes(content)
        command = [sys.executable, "-I", str(artifact)]
        there = seconds([*command, "compress", str(path), "--threads", "1", *more])
        packed = Path(f"{path}.caddie")
        back = seconds([*command, "decompress", str(packed), "--output", str(again), "--threads", "1", *more])
        if again.read_bytes() != content:
            raise SystemExit("the file did not come back; encoder and decoder computed in different ways")
        return packed.stat().st_size, there, back


def spread(values: list[float], form: str = ",.1f") -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--artifact", type=Path, default=ROOT / "artifacts/package/submission.pyz")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluator", help="default: the packed choice")
    parser.add_argument("--options", help="JSON object of its options")
    arguments = parser.parse_args()
    more = [part for name in ("evaluator", "options") if (value := getattr(arguments, name)) for part in (f"--{name}", value)]
    text = arguments.text.read_bytes()
    sizes = [size for size in arguments.sizes if size <= len(text)]
    starts = [coded(arguments.artifact, b"a", more)[1] for _ in range(arguments.rounds)]
    start = statistics.median(starts)
    print("| bytes | compressor | bytes after | bits per byte | kB/s, whole | kB/s without start | kB/s of decompress, without start |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for size in sizes:
        runs = [coded(arguments.artifact, text[:size], more) for _ in range(arguments.rounds)]
        (packed,) = {run[0] for run in runs}
        whole = [size / run[1] / 1e3 for run in runs]
        rates = [[size / max(run[1 + way] - start, 1e-3) / 1e3 for run in runs] for way in (0, 1)]
        row = [f"{size:,}", "submission.pyz", f"{packed:,}", f"{8 * packed / size:.3f}", spread(whole), *map(spread, rates)]
        print(f"| {' | '.join(row)} |", flush=True)
        for name in ("xz_9e", "zstd_22"):
            peers = [compressors.run(name, text[:size]) for _ in range(arguments.rounds)]
            rate = [size / max(run.core_seconds, 1e-3) / 1e3 for run in peers]
            print(f"| {size:,} | {name} | {peers[0].bytes:,} | {8 * peers[0].bytes / size:.3f} | {spread(rate)} | | |", flush=True)
    load = os.getloadavg()[0]
    print(
        f"\nOne core of {os.cpu_count()} ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, load average "
        f"{load:.0f}, n = {arguments.rounds}; median (smallest to largest). A start takes {spread(starts)} CPU seconds."
    )


if __name__ == "__main__":
    main()
