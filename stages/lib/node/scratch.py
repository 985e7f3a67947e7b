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
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


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
        """Hold the lock on the folder. ValueError if another process holds it, or if the file system has no locks."""
        while (handle := _locked(self.path / "lock")) is None:
            pass
        with handle:
            handle.truncate(0)
            handle.write(f"{os.getpid()} on {socket.gethostname()}")
            handle.flush()
            yield self

    def remove(self) -> None:
        """Remove the whole folder in one step, so that a kill in between does not leave a part that looks like work to continue."""
        gone = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.removed")
        os.replace(self.path, gone)
        shutil.rmtree(gone, ignore_errors=True)  # what is left is removed by the next process that comes here


def _locked(path: Path) -> TextIO | None:
    """The lock file of a folder, locked; None if the process that had it has removed the folder meanwhile. The file is open for writing,
    without which NFS gives no exclusive lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for gone in path.parent.parent.glob("*.removed"):
        shutil.rmtree(gone, ignore_errors=True)  # left by a process that was killed while it removed its folder
    try:
        handle = open(path, "a+")  # noqa: SIM115 (the caller closes it)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle.fileno()), os.stat(path)):
            return handle
    except FileNotFoundError:
        pass
    except BlockingIOError:
        handle.seek(0)
        with handle:
            raise ValueError(
                f"the same work is already being done (process {handle.read().strip() or 'unknown'}, lock {path}); "
                "wait for it or stop it, what it did will be continued"
            ) from None
    except OSError as error:
        handle.close()
        raise ValueError(
            f"{path} cannot be locked ({error.strerror}), as on a file system that is mounted without locks; "
            "move scratch/ to another file system and put a symbolic link to it in its place"
        ) from None
    handle.close()
    return None
