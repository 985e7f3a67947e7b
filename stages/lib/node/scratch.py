"""Unfinished work of a killed run, outside DVC: scratch/<stage>/<key>/. It is removed when the work is done.

The key is a hash of everything that the work depends on, so work left by a run with other parameters is never reused. An exclusive lock on
the folder prevents a still running earlier process and its successor from working in it at the same time.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def key(*parts) -> str:
    """16 hex digits that change whenever a part (JSON-able, or a Path whose content counts) changes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else json.dumps(part, sort_keys=True).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


class Folder:
    """The scratch folder of one piece of work."""

    def __init__(self, path: Path):
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator["Folder"]:
        """Hold the lock on the folder. ValueError if another process holds it."""
        self.path.mkdir(parents=True, exist_ok=True)
        for gone in self.path.parent.glob("*.removed"):
            shutil.rmtree(gone, ignore_errors=True)  # left by a process that was killed while it removed its folder
        with open(self.path / "lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise ValueError(
                    f"the same work is already being done (process {handle.read().strip() or 'unknown'}, lock "
                    f"{self.path / 'lock'}); wait for it or stop it, what it did will be continued"
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield self

    def remove(self) -> None:
        """Remove the whole folder in one step, so that a kill in between does not leave a part that looks like work to continue."""
        gone = self.path.with_name(f"{self.path.name}.{os.getpid()}.removed")
        os.replace(self.path, gone)
        shutil.rmtree(gone)
