"""Checkpoints of a running training, outside DVC: scratch/<stage>/<key>/step_<n>.safetensors.

The key is a hash of everything that makes two trainings the same (parameters, text, code), so a checkpoint of other
parameters is never picked up. Written under a temporary name and renamed; the last two are kept, all are removed at the end.
An exclusive lock on the folder keeps an orphan of a killed run and its successor from training side by side.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from stages.lib import tensors

KEEP = 2


def key(*parts) -> str:
    """16 hex digits that change whenever a part (JSON-able, or a Path whose content counts) changes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else json.dumps(part, sort_keys=True).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


class Folder:
    """The checkpoints of one training."""

    def __init__(self, path: Path):
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator["Folder"]:
        """Hold the folder; ValueError if another process has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise ValueError(f"the same training is already running (process {handle.read().strip() or 'unknown'}, lock "
                                 f"{self.path / 'lock'}); wait for it or stop it, its checkpoints will be continued") from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield self

    def save(self, step: int, state: dict[str, Tensor], facts: dict) -> None:
        tensors.save(self.path / f"step_{step:09d}.safetensors", state, facts)
        for old in self._files()[:-KEEP]:
            old.unlink()

    def latest(self) -> tuple[dict[str, Tensor], dict] | None:
        """The newest readable checkpoint, or None. A damaged one is skipped with a line that says so."""
        for path in reversed(self._files()):
            try:
                return tensors.load(path)
            except ValueError as error:
                print(f"skipping a damaged checkpoint: {error}")
        return None

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("step_*.safetensors"))
