"""Run one part in a process of its own, which is stopped at its limit; the rows that it has noted until then are kept.

The process leads a group, which is killed as a whole: compilers and trainings that the part started end with it. If the process that
started it is killed, the part ends itself.

    python -m benchmarks.gpu.process MODULE ROWS DEVICE SECONDS PARENT [DATA]        what Runner starts
"""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.gpu.context import Context
from stages.lib.node import files

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}  # threads of a small size that wait by spinning take most of the time
PATIENCE = 0.5  # seconds between two looks whether the starting process still lives


class Runner:
    """Starts parts with the interpreter `python`. In `out`, rows/ has their rows, logs/ what they print, and work/ their files."""

    def __init__(self, python: Path, out: Path, *, data: Path | None):
        self.python, self.out, self.data = python, out, data

    def machine(self, seconds: float) -> dict:
        """The facts of machine.py. ValueError if even that fails, with the last line of the log."""
        found = self.run("machine", "cpu", seconds, module="benchmarks.gpu.machine")
        if found["status"] != "done":
            raise ValueError(f"{self.python} cannot describe this machine ({found['error']}); docs/gpu-run.md says which packages it needs")
        return {row["what"]: row["value"] for row in found["rows"]}

    def run(self, name: str, device: str, seconds: float, *, module: str | None = None) -> dict:
        """status: done, failed or stopped; error: the last line of a traceback, or None; the seconds that it took; its rows."""
        rows, log, work = self.out / f"rows/{name}.json", self.out / f"logs/{name}.txt", self.out / f"work/{name}"
        rows.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        for folder in (rows.parent, log.parent, work):
            folder.mkdir(parents=True, exist_ok=True)
        given = [str(rows), device, str(seconds), str(os.getpid()), *([str(self.data)] if self.data else [])]
        searched = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        started, status = time.monotonic(), "failed"
        with open(log, "w", encoding="utf-8") as handle:
            part = subprocess.Popen(
                [str(self.python), "-m", "benchmarks.gpu.process", module or f"benchmarks.gpu.parts.{name}", *given],
                cwd=work,
                env=os.environ | {"PYTHONPATH": searched, "PYTHONUTF8": "1", **(QUIET if device == "cpu" else {})},
                stdout=handle,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                status = "done" if part.wait(timeout=seconds) == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "stopped"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(part.pid, signal.SIGKILL)  # also what a finished part has left running
                part.wait()
        error = {"done": None, "failed": last_line(log), "stopped": f"stopped after its {seconds:.0f} s"}[status]
        shutil.rmtree(work, ignore_errors=True)
        noted = files.read_json(rows)["rows"] if rows.is_file() else []
        return {"status": status, "error": error, "seconds": round(time.monotonic() - started, 1), "rows": noted}


def last_line(path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it ended without a word"


def end_with(parent: int) -> None:
    """Kill this process and its group as soon as the process `parent` is gone."""
    while os.getppid() == parent:
        time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)


def main(module: str, rows: str, device: str, seconds: str, parent: str, data: str | None = None) -> None:
    # the parent's number is an argument, because it may be gone before this process could ask for it
    threading.Thread(target=end_with, args=(int(parent),), daemon=True).start()
    context = Context(Path(rows), device, time.monotonic() + float(seconds), data=Path(data) if data else None)
    context.write()
    importlib.import_module(module).measure(context)


if __name__ == "__main__":
    main(*sys.argv[1:])
