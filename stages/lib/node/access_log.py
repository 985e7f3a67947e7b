"""Record which data files a stage opens for reading. The lineage check compares this record with what the stage declares.

Python raises an audit event for every file that it opens. While a stage runs, each such file under artifacts/, data/ or DVC's cache becomes
a line. The process that begins the run keeps its lines in memory, and makes the run's folder under a random name in scratch/opened/. Every
other process of the run (torchrun's workers, pools) inherits the folder's path and has a file of its own in it. At the end the process that
began the run writes all lines, sorted, as the record, so equal runs give equal bytes. It alone removes the folder. No process asks whether
another one is alive, because process numbers mean nothing in another container or on another machine. What killed runs leave goes by age.

This is a guard and not a sandbox: it does not see files that are opened outside of Python (a C library, another program) or under another
name (a hard link, a copy). Our own readers of that kind report what they open (lib/node/tensors.py).
"""

import os
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

JOURNAL = "CADDIE_OPENED"  # environment variable: the folder of the run, and the folder that its paths are relative to
ROOTS = ("artifacts", "data", ".dvc/cache")
NAME = "opened.json"


class _Journal:
    """What this process has opened. `root` None: nothing is recorded. `file`: where the lines of a process go that did not begin it."""

    root: str | None = None
    file: int | None = None
    seen: set[str] = set()  # noqa: RUF012 (one journal per process)
    lines: set[str] = set()  # noqa: RUF012
    is_hooked = False


def is_worker() -> bool:
    """Whether torchrun started this process. WORLD_SIZE alone is no proof, as the environment may have set it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def join() -> None:
    """Take part in the run that the environment names, if it names one. A process that a stage starts calls this first."""
    if JOURNAL in os.environ:
        folder, root = os.environ[JOURNAL].split("\n")
        begin(root, os.open(Path(folder) / uuid.uuid4().hex, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def begin(root: str, file: int | None = None) -> None:
    """Note what this process opens from now on under `root`; in `file` too, for the process that began the run."""
    leave()
    _Journal.root, _Journal.file, _Journal.seen, _Journal.lines = root, file, set(), set()
    if not _Journal.is_hooked:
        sys.addaudithook(_hook)  # an audit hook cannot be removed
        _Journal.is_hooked = True


def leave() -> None:
    """Note no more."""
    _Journal.root, file, _Journal.file = None, _Journal.file, None
    if file is not None:
        os.close(file)


def add(lines: Iterable[str]) -> None:
    """Add lines that another process saw."""
    _Journal.lines.update(lines)


def lines() -> set[str]:
    """What this process has opened so far."""
    return set(_Journal.lines)


def report(path: Path) -> None:
    """Raise the event that Python would have raised. Readers that open files outside of Python call this."""
    sys.audit("open", str(path), "rb", os.O_RDONLY)


def _hook(event: str, arguments: tuple) -> None:
    """Called for every audit event of the process: the first line decides for nearly all of them."""
    if event != "open" or _Journal.root is None:
        return
    path, mode, flags = arguments
    if (
        isinstance(path, int)
        or (flags if isinstance(flags, int) else 0) & os.O_ACCMODE == os.O_WRONLY
        or (mode and "r" not in mode and "+" not in mode)
    ):
        return
    name = os.path.abspath(os.fsdecode(path))
    if name in _Journal.seen:
        return
    _Journal.seen.add(name)
    given, real = _relative(name), _relative(os.path.realpath(name))
    if given is not None and real is not None and real.startswith(".dvc/cache/"):
        real = None  # the file may be a link into DVC's cache, made by DVC at checkout
    for line in {given, real} - {None} - _Journal.lines:
        _Journal.lines.add(line)
        if _Journal.file is not None:
            os.write(_Journal.file, f"{line}\n".encode(errors="surrogateescape"))


def _relative(name: str) -> str | None:
    """The path from the stage's folder, if it lies under one of ROOTS."""
    if not name.startswith(_Journal.root + os.sep):
        return None
    path = name[len(_Journal.root) + 1 :]
    if ".partial" in path and any(part.endswith(".partial") for part in path.split(os.sep)):
        return None  # a file that the stage is writing (files.atomic), under a temporary name
    return path if path.startswith(tuple(f"{root}/" for root in ROOTS)) else None
