"""Run a packed submission as an outsider would: with an isolated interpreter, in an empty folder, without this repository.

`evaluate` and `audit` touch a model only through this module, which does not import torch. Each run is protected by the guard of guard.py:
it refuses files, programs and sockets that no submission needs, and reports what it refused as part of the result.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from stages.lib.node import closure
from stages.lib.referee import guard
from stages.runtime.tokens import shards

PROGRAMS = ("lrzip", "zpaq")  # programs that a codec may start
PYZ = "submission.pyz"
# torch 2.13 can replace some of its GPU kernels by ones that it compiles on first use, for which the guard would refuse the compiler
ENVIRONMENT = {"TORCH_DISABLE_NATIVE_JIT": "1"}
SHARING = {"OMP_WAIT_POLICY": "PASSIVE"}  # if several run at the same time; alone, threads that wait actively are up to a third faster
THREADS = 2  # the default of submission.pyz, because probes must repeat its numbers bit for bit


class Failed(ValueError):
    """The artifact ended with an error. The message is the artifact's own."""


@dataclass(frozen=True)
class Result:
    """One scored stream: the line that the artifact printed, nats per target, the requested rows of log p, (first target, last target,
    chunk) of each window in the order of their commits, and the accesses that were refused."""

    line: dict
    nats: np.ndarray
    rows: dict[int, np.ndarray]
    commits: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What to score: the first `length` targets of the base stream, with `ids` replacing the tokens from `position` on, declared as
    `declared` targets; all of them, a part (I, K) or a span of targets; with the full rows of the targets in `rows`."""

    length: int
    declared: int
    position: int = 0
    ids: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    part: tuple[int, int] = (0, 1)
    span: tuple[int, int] | None = None


def score(
    pyz: Path,
    streams: list[np.ndarray],
    *,
    evaluator: str,
    options: dict,
    rows: Sequence[int] = (),
    part: tuple[int, int] = (0, 1),
    gpu: int | None = None,
    shares: bool = False,
    progress: bool = False,
) -> list[Result]:
    """Score token streams with one evaluator of the artifact, in one process. ValueError with the artifact's own message.

    `part` is as in runtime/scoring/harness.py. `gpu` is the only GPU that the process sees, counted among those of this process.
    Set `shares` if other processes run on the same cores. With `progress`, the artifact's stderr is passed on while it runs.
    """
    packed(pyz, evaluator)
    with _Folder(pyz) as folder:
        names = []
        for i, stream in enumerate(streams):
            names.append(f"stream_{i:04d}.bin")
            shards.write(folder.path / names[-1], stream)
        chosen = ["--evaluator", evaluator, "--options", json.dumps(options), "--part", f"{part[0]}/{part[1]}"]
        kept = ["--ledger", "ledger", "--rows", json.dumps([int(row) for row in rows])]
        command = ["run", "score", *names, *chosen, *kept]
        environment = (SHARING if shares else {}) | visible(gpu)
        said = folder.run(command + ["--progress"] * progress, environment, echo=progress)
        if said:
            raise Failed(f"{Path(pyz).name} failed to score with {evaluator}: {said.removeprefix('submission.pyz: ')}")
        lines = [json.loads(line) for line in (folder.path / "stdout").read_text().splitlines()]
        refused = folder.refused()
        return [_result(line, folder.path / "ledger" / f"{Path(name).stem}.npz", refused) for line, name in zip(lines, names, strict=True)]


def probe(pyz: Path, base: np.ndarray, requests: list[Request], *, evaluator: str, options: dict) -> list[Result]:
    """Score the requests with the artifact's own harness, each with a fresh evaluator, all in one process.

    `line` of the results says whether the evaluator `carries`. If it does, parts and spans are not scored and their nats are NaN.
    """
    packed(pyz, evaluator)
    with _Folder(pyz) as folder:
        longest = max(request.length for request in requests)
        np.save(folder.path / "base.npy", np.asarray(base[: longest + 1]), allow_pickle=False)
        (folder.path / "requests.json").write_text(json.dumps([asdict(request) for request in requests]))
        said = folder.run(["probe", evaluator, json.dumps(options), str(THREADS)], SHARING, echo=False)
        if said:
            raise Failed(f"{Path(pyz).name} failed under probes with {evaluator}: {said.removeprefix('submission.pyz: ')}")
        refused = folder.refused()
        facts = json.loads((folder.path / "facts.json").read_text())
        return [_result(facts, folder.path / f"{number:05d}.npz", refused) for number in range(len(requests))]


class Stream:
    """Run the artifact token by token: it gets a token only after its distribution for it was received. A context manager.

    `num_targets` is declared to it, `first` is the token before the first target. It uses one thread, so that both sides of a code agree.
    """

    def __init__(self, pyz: Path, *, evaluator: str, options: dict, num_targets: int, first: int):
        packed(pyz, evaluator)
        self.folder, self.known, self.refused = _Folder(pyz), [], ()
        self.command = ["stream", evaluator, json.dumps(options), "1", str(num_targets), str(first)]

    def __enter__(self):
        self.folder.__enter__()
        self.process = self.folder.start(self.command, SHARING, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line:
            self._failed()
        facts = json.loads(line)
        self.vocabulary, self.carries = facts["vocabulary"], facts["carries"]
        return self

    def __exit__(self, *exception) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()
        self.refused = self.folder.refused()
        self.folder.__exit__()

    def dist(self) -> np.ndarray:
        """ln p (V) of the next token, float64. The artifact knows only the tokens that were pushed so far."""
        self._send(b"d")
        row = self.process.stdout.read(8 * self.vocabulary)
        if len(row) < 8 * self.vocabulary:
            self._failed()
        return np.frombuffer(row, "<f8")

    def push(self, ids: Sequence[int]) -> None:
        """Tell the artifact the next tokens."""
        for start in range(0, len(ids), 4096):  # less than a pipe holds, so that neither side waits for the other
            part = np.asarray(ids[start : start + 4096], "<u4")
            self._send(b"p" + len(part).to_bytes(4, "little") + part.tobytes())

    def _send(self, request: bytes) -> None:
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            self._failed()

    def _failed(self) -> None:
        self.process.wait()
        raise Failed(f"the artifact failed to go token by token: {self.folder.last_words(self.process.returncode)}")


class _Folder:
    """An empty folder with a copy of the artifact in it, in which processes start behind the guard."""

    def __init__(self, pyz: Path):
        self.pyz = Path(pyz)

    def __enter__(self):
        self.holder = tempfile.TemporaryDirectory(prefix="caddie-")
        self.path = Path(self.holder.name).resolve() / "run"
        self.path.mkdir()
        shutil.copyfile(self.pyz, self.path / PYZ)
        self.report = open(self.path.parent / "refused", "w+b")
        self.errors = self.path.parent / "stderr"
        return self

    def __exit__(self, *exception) -> None:
        self.report.close()
        self.holder.cleanup()

    def start(self, arguments: list[str], environment: dict, **pipes) -> subprocess.Popen:
        settings = json.dumps([PYZ, self.report.fileno(), PROGRAMS, [str(closure.ROOT), os.getcwd()]])
        with open(self.errors, "wb") as errors:
            return self._start(settings, arguments, environment, **({"stderr": errors} | pipes))

    def _start(self, settings: str, arguments: list[str], environment: dict, **pipes) -> subprocess.Popen:
        # torch sets the last variable if it has run before
        home = dict.fromkeys(("HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR"), str(self.path))
        command = [sys.executable, "-I", "-B", guard.__file__, settings, *arguments]
        report = (self.report.fileno(),)
        return subprocess.Popen(command, cwd=self.path, **pipes, pass_fds=report, env=os.environ | home | ENVIRONMENT | environment)

    def run(self, arguments: list[str], environment: dict, *, echo: bool) -> str:
        """Run to the end with stdout in a file; the last line of stderr if it failed, else an empty string."""
        with open(self.path / "stdout", "wb") as stdout:
            process = self.start(arguments, environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)
        with process, open(self.errors, "wb") as kept:
            while part := os.read(process.stderr.fileno(), 4096):
                kept.write(part)
                if echo:
                    sys.stderr.write(part.decode(errors="replace"))
                    sys.stderr.flush()
        return self.last_words(process.returncode) if process.returncode else ""

    def last_words(self, code: int) -> str:
        return (self.errors.read_bytes()[-4096:].decode(errors="replace").strip().splitlines() or [f"exit code {code}"])[-1]

    def refused(self) -> tuple[str, ...]:
        """What the guard has reported so far."""
        self.report.seek(0)
        return tuple(dict.fromkeys(self.report.read().decode(errors="replace").splitlines()))


def visible(gpu: int | None) -> dict[str, str]:
    """The environment in which a process sees only the GPU that this process counts as `gpu` (None: all that this process sees)."""
    if gpu is None:
        return {}
    names = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers or UUIDs; CUDA counts in their order
    return {"CUDA_VISIBLE_DEVICES": str(gpu) if names is None else names.split(",")[gpu].strip()}


def read(pyz: Path, name: str) -> bytes:
    """One of the data files packed in a submission. ValueError if it is damaged."""
    try:
        with zipfile.ZipFile(pyz) as archive:
            return archive.read(f"caddie/data/{name}")
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ValueError(f"{pyz} is not a readable submission ({error}); run: dvc repro package") from None


def packed(pyz: Path, evaluator: str) -> None:
    """ValueError if `pyz` is not a readable submission or does not contain the evaluator."""
    manifest = json.loads(read(pyz, "manifest.json"))
    if evaluator not in manifest["evaluators"]:
        raise ValueError(
            f"the artifact packs the evaluators {', '.join(manifest['evaluators'])}, not {evaluator!r}; add it to package.evaluators"
        )


def _result(line: dict, path: Path, refused: tuple[str, ...]) -> Result:
    with np.load(path, allow_pickle=False) as ledger:
        rows = {int(name.removeprefix("row_")): ledger[name] for name in ledger.files if name.startswith("row_")}
        commits = ledger["commits"] if "commits" in ledger.files else np.empty((0, 3), np.int64)
        return Result(line, ledger["nats"], rows, commits, refused)
