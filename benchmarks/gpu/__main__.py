"""Everything that only a GPU can show, in one command that ends in time, and keeps each part that it has finished.

    python -m benchmarks.gpu                                        on a machine with CUDA: at most eight minutes
    python -m benchmarks.gpu --wheels wheels --data data/gpu        with Python packages from a folder, and with text for the training
    python -m benchmarks.gpu --device cpu --minutes 60              the CPU form: the same code at small sizes
    python -m benchmarks.gpu --parts speed sliding                  only these
    python -m benchmarks.gpu --list                                 the parts, with their limits in seconds

Each part runs in a process of its own and is stopped when its limit or the total time is over. After each part, gpu.json and gpu.md in the
folder --out hold all that is known. The same command skips the parts that are done and runs the others again. This process imports nothing
but the standard library and lib/node/files.py, so that it can install packages before any other module needs them.
"""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.gpu import page, process, wheels
from benchmarks.gpu.parts import MINUTES, PARTS, seconds_of
from benchmarks.gpu.record import Record, code_key

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 5  # a part that has less is not started
MACHINE_SECONDS = 120  # limit of the look at the machine, whose first import of torch reads gigabytes


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.list:
        for name, seconds in PARTS.items():
            print(f"{name:12} {seconds.limit:5} s   {page.purpose(name)}")
        return 0
    deadline, out = time.monotonic() + 60 * arguments.minutes, arguments.out.absolute()
    record = Record(out / "gpu.json")
    python = wheels.installed(arguments.wheels, out / "python") if arguments.wheels else Path(sys.executable)
    runner = process.Runner(python, out, data=arguments.data and arguments.data.absolute())
    machine = runner.machine(MACHINE_SECONDS)
    device = chosen(arguments.device, has_cuda=machine["gpu"] is not None)
    record.begin(machine, device)
    code = code_key(ROOT)
    for name in (name for name in PARTS if name in arguments.parts):
        if record.has(name, code):
            print(f"{name}: skipped, {record.path} has it", flush=True)
            continue
        seconds = seconds_of(name, arguments.parts, left=deadline - time.monotonic(), minutes=arguments.minutes)
        if seconds < LEAST_SECONDS:
            result = {"status": "not started", "error": "no time was left", "seconds": 0.0, "rows": []}
        else:
            print(f"{name}: at most {seconds:.0f} s", flush=True)
            result = runner.run(name, device, seconds)
        record.keep(name, result | {"code": code})
        page.write(record.path)
        reason = f": {result['error']}" if result["error"] else ""
        print(f"{name}: {result['status']} after {result['seconds']:.1f} s{reason}", flush=True)
    print(f"{out / 'gpu.md'}: {page.verdict(record.content)}")
    return int(not page.holds(record.content))


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="(default: all)")
    out.add_argument("--list", action="store_true", help="print the parts and end")
    out.add_argument("--minutes", type=float, default=MINUTES, help="total time (default: %(default)s)")
    out.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: small sizes, to try the command itself")
    out.add_argument("--out", type=Path, default=Path("scratch/gpu"), help="folder of the results (default: %(default)s)")
    out.add_argument("--data", type=Path, help="folder that `make gpu-data` has made; the part `pipeline` needs it")
    out.add_argument("--wheels", type=Path, help="folder with the wheels of benchmarks/gpu/wheels.txt, if this Python lacks them")
    return out


def chosen(device: str, *, has_cuda: bool) -> str:
    """cuda or cpu. ValueError for a GPU that is not there: the CPU form is never taken in its place."""
    if device == "cuda" and not has_cuda:
        raise ValueError("torch sees no CUDA device here, so nothing was measured; `make gpu-cpu` runs the same parts in small on the CPU")
    return device


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"caddie gpu: {error}")
    except KeyboardInterrupt:
        sys.exit("caddie gpu: interrupted; finished parts are kept, run it again to continue")
