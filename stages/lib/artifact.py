"""Run a packed submission the way a stranger would: isolated interpreter, empty folder, nothing of this repository.

The only way in which `evaluate` and `audit` touch a model. No torch is imported here.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.runtime import shards


@dataclass(frozen=True)
class Result:
    """One scored stream: the line that the artifact printed, nats per target, and the rows of log p that were asked for."""

    line: dict
    nats: np.ndarray
    rows: dict[int, np.ndarray]


def score(pyz: Path, streams: list[np.ndarray], *, evaluator: str, options: dict, rows: Sequence[int] = (),
          part: tuple[int, int] = (0, 1), gpu: int | None = None, progress: bool = False) -> list[Result]:
    """Score token streams with one evaluator of the artifact, in one process. ValueError with the artifact's own sentence.

    `part` as in runtime/harness.py; `gpu`: the only one that the process sees. With `progress`, what the artifact says on stderr is
    passed on while it runs.
    """
    pyz = Path(pyz).resolve()
    packed(pyz, evaluator)
    with tempfile.TemporaryDirectory(prefix="caddie-") as folder:
        names = []
        for i, stream in enumerate(streams):
            names.append(f"stream_{i:04d}.bin")
            shards.write(Path(folder, names[-1]), stream)
        command = [sys.executable, "-I", str(pyz), "score", *names, "--evaluator", evaluator, "--options", json.dumps(options),
                   "--ledger", "ledger", "--rows", json.dumps([int(row) for row in rows]), "--part", f"{part[0]}/{part[1]}"]
        environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})
        said = _run(command + ["--progress"] * progress, Path(folder), environment, echo=progress)
        if said:
            raise ValueError(f"{pyz.name} failed to score with {evaluator}: {said.removeprefix('submission.pyz: ')}")
        lines = [json.loads(line) for line in Path(folder, "stdout").read_text().splitlines()]
        return [_result(line, Path(folder, "ledger", Path(name).stem + ".npz")) for line, name in zip(lines, names, strict=True)]


def _run(command: list[str], folder: Path, environment: dict, *, echo: bool) -> str:
    """Run to the end with stdout in a file; the last line of stderr if it failed, else an empty string."""
    tail = b""
    with open(folder / "stdout", "wb") as stdout:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, env=environment)
    with process:
        while part := os.read(process.stderr.fileno(), 4096):
            tail = (tail + part)[-4096:]
            if echo:
                sys.stderr.write(part.decode(errors="replace"))
                sys.stderr.flush()
    if process.returncode == 0:
        return ""
    return (tail.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"])[-1]


def read(pyz: Path, name: str) -> bytes:
    """One of the data files packed in a submission. ValueError if the file is damaged."""
    try:
        with zipfile.ZipFile(pyz) as archive:
            return archive.read(f"caddie/data/{name}")
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ValueError(f"{pyz} is not a readable submission ({error}); run: dvc repro package") from None


def packed(pyz: Path, evaluator: str) -> None:
    """ValueError unless `pyz` is a readable submission that packs the evaluator."""
    manifest = json.loads(read(pyz, "manifest.json"))
    if evaluator not in manifest["evaluators"]:
        raise ValueError(f"the artifact packs the evaluators {', '.join(manifest['evaluators'])}, not {evaluator!r}; "
                         "add it to package.evaluators")


def _result(line: dict, path: Path) -> Result:
    with np.load(path, allow_pickle=False) as ledger:
        rows = {int(name.removeprefix("row_")): ledger[name] for name in ledger.files if name.startswith("row_")}
        return Result(line, ledger["nats"], rows)
