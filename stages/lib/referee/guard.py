"""The program that runs an artifact in a process of its own. It sets up a guard, then runs the artifact's command line or an audit's
requests.

    python -I -B guard.py GUARD run ARGUMENT...                    the command line of the artifact, unchanged
    python -I -B guard.py GUARD probe EVALUATOR OPTIONS THREADS     scores the requests in requests.json with the artifact's own harness
    python -I -B guard.py GUARD stream EVALUATOR OPTIONS THREADS N FIRST    token by token, over stdin and stdout

GUARD is JSON: the artifact's file, the descriptor to which refused accesses are reported, the programs that may be started, and folders
that are always closed. Once the guard is set, Python code may open files of the Python installation, of the system and of the current
folder, which contains only the artifact and its input. It may write only in that folder, start only the named programs, and open no socket.
Anything else is refused and reported. This is a guard and not a sandbox: it does not see files that compiled code opens by itself.

The protocol of `stream`: the artifact first sends a line of JSON, {"vocabulary": V, "carries": true or false}. Then come requests of one
byte each. "d" is answered by ln p of the next token (V float64). "p" is followed by a count (u32) and that many ids (u32), which become
known. The end of the input ends the program.
"""

import contextlib
import ctypes  # noqa: F401  loaded before the guard is set, because torch and numpy need it
import json
import os
import subprocess  # noqa: F401
import sys
import tempfile
from pathlib import Path

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/sys")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/tty")
MACHINE = [f"/proc/{name}" for name in ["cpuinfo", "meminfo", "self/status", "self/maps", "self/cgroup", "stat", "version"]]
SINGLE = (*DEVICES, *MACHINE)
ONE_PATH = [f"os.{name}" for name in ["listdir", "scandir", "chdir", "remove", "mkdir", "rmdir", "truncate", "utime", "chmod"]]
PATH_EVENTS = dict.fromkeys(("open", "sqlite3.connect", *ONE_PATH), 1) | {"os.rename": 2, "os.link": 2, "os.symlink": 2}
READING = {"open", "os.listdir", "os.scandir"}
PROGRAM_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")


class Guard:
    """An audit hook (PEP 578) that refuses accesses and reports them."""

    def __init__(self, *, report: int, programs: list[str], closed: list[str]):
        installation = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(path for path in sys.path if path)}
        self.home = os.path.realpath(os.getcwd())
        self.installation = tuple({os.path.realpath(path) for path in installation} | installation)
        self.readable = (*self.installation, *SYSTEM, *(os.path.realpath(path) for path in SYSTEM))
        self.report, self.programs, self.told = report, programs, set()
        self.closed = tuple(os.path.realpath(path) for path in closed)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in PATH_EVENTS:
            for path in arguments[: PATH_EVENTS[event]]:
                if not self._allows(event, path, arguments):
                    self._refuse(f"{event} {os.fsdecode(path)}")
        elif event == "subprocess.Popen":
            if os.path.basename(os.fsdecode(arguments[0] or arguments[1][0])) not in self.programs:
                self._refuse(f"{event} {arguments[0]}")
        elif event in PROGRAM_EVENTS or event.startswith("socket."):
            self._refuse(event)
        elif event == "ctypes.dlopen":
            library = arguments[0]
            if not isinstance(library, str) or not self._within(os.path.realpath(library), self.readable):
                self._refuse(f"{event} {library}")

    def _allows(self, event: str, path, arguments: tuple) -> bool:
        if path is None or isinstance(path, int):  # an already open descriptor, or the current folder
            return True
        real = os.path.realpath(os.fsdecode(path))
        if self._within(real, (self.home,)):
            return True
        writes = event not in READING or (event == "open" and self._writes(arguments))
        if writes:
            return real == "/dev/null"
        if self._within(real, self.closed):  # but the virtual environment may be inside the project's folder
            return any(self._within(real, (path,)) for path in self.installation if self._within(path, self.closed))
        return real in SINGLE or self._within(real, self.readable) or os.fsdecode(path) in SINGLE

    @staticmethod
    def _writes(arguments: tuple) -> bool:
        _, mode, flags = arguments
        if isinstance(mode, str):
            return any(letter in mode for letter in "wax+")
        return bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))

    @staticmethod
    def _within(real: str, folders: tuple[str, ...]) -> bool:
        return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in folders)

    def _refuse(self, what: str) -> None:
        what = " ".join(what.split())[:300]
        if what not in self.told and len(self.told) < 100:
            self.told.add(what)
            os.write(self.report, what.encode(errors="replace") + b"\n")
        raise PermissionError(f"an artifact may use nothing but itself and its input; refused: {what}")


def main() -> None:
    """Read the command line, set up the guard, and run the command."""
    pyz, report, programs, closed = json.loads(sys.argv[1])
    command, arguments = sys.argv[2], sys.argv[3:]
    import numpy  # noqa: F401
    import torch

    with contextlib.suppress(ImportError):  # some tokenizers do not need it
        import sentencepiece  # noqa: F401
    if torch.cuda.is_available():  # until CUDA is initialised, torch counts the GPUs with a library that it opens by its bare name
        torch.cuda.init()
        torch.cuda.device_count()
    tempfile.tempdir = os.getcwd()
    sys.addaudithook(Guard(report=report, programs=programs, closed=closed))
    if command == "run":
        import runpy

        sys.argv = [pyz, *arguments]
        runpy.run_path(pyz, run_name="__main__")
        return
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what the artifact prints apart from the answers
    sys.path.insert(0, pyz)
    from caddie import entry

    name, options, threads = arguments[0], json.loads(arguments[1]), int(arguments[2])
    try:
        module, evaluator, _ = entry.opened(name, options, threads=threads, device="auto")
        if command == "probe":
            _probe(evaluator, options)
        else:
            _stream(evaluator(options | getattr(module, "STREAM", {})), int(arguments[3]), int(arguments[4]), answers)
    except (ValueError, OSError) as error:
        sys.exit(f"submission.pyz: {error}")


def _probe(evaluator, options: dict) -> None:
    import numpy as np
    from caddie.scoring import harness

    base = np.load("base.npy", allow_pickle=False)
    carries = bool(getattr(evaluator(options), "carries", True))
    Path("facts.json").write_text(json.dumps({"carries": carries}))
    for number, request in enumerate(json.loads(Path("requests.json").read_text())):
        tokens = base[: request["length"] + 1].copy()
        tokens[request["position"] : request["position"] + len(request["ids"])] = request["ids"]
        span = tuple(request["span"]) if request["span"] else None
        if carries and (span or request["part"] != [0, 1]):
            np.savez(f"{number:05d}.npz", nats=np.full(len(tokens) - 1, np.nan))
            continue
        ledger = harness.score(
            evaluator(options), tokens, declared=request["declared"], keep_rows=request["rows"], part=tuple(request["part"]), span=span
        )
        rows = {f"row_{target}": row for target, row in ledger.rows.items()}
        np.savez(f"{number:05d}.npz", nats=ledger.nats, commits=np.array(ledger.commits, np.int64).reshape(-1, 3), **rows)


def _stream(evaluator, num_targets: int, first: int, answers) -> None:
    import numpy as np
    from caddie.scoring.streaming import Stream

    stream, requests = Stream(evaluator, num_targets, first), sys.stdin.buffer
    facts = {"vocabulary": len(stream.dist()), "carries": bool(getattr(evaluator, "carries", True))}
    answers.write(json.dumps(facts).encode() + b"\n")
    answers.flush()
    while kind := requests.read(1):
        if kind == b"d":
            answers.write(np.ascontiguousarray(stream.dist(), dtype="<f8").tobytes())
            answers.flush()
        else:
            count = int.from_bytes(requests.read(4), "little")
            _push(stream, np.frombuffer(requests.read(4 * count), "<u4").tolist(), carries=facts["carries"])


def _push(stream, ids: list[int], *, carries: bool) -> None:
    """Make `ids` known. An evaluator that carries no state cannot learn from them, so millions of ids need no processing one by one."""
    if carries:
        for token in ids:
            stream.push(token)
        return
    first = stream.next_target
    stream.tokens[first : first + len(ids)] = stream.tokens.new_tensor(ids)
    stream.next_target += len(ids)
    while stream.window and stream.window.last < stream.next_target:
        stream.window = next(stream.windows, None)


if __name__ == "__main__":
    main()
