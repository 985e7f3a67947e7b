"""Record which data files a stage opens for reading. The lineage check compares this record with what the stage declares.

Python raises an audit event for every file that it opens. While a stage runs, each such file under artifacts/, data/ or DVC's cache is
written to a journal, one line each. Processes that the stage starts (torchrun's workers, pools) inherit the journal's path and write to it
too. At the end the sorted lines become the record, so equal runs give equal bytes.

This is a guard and not a sandbox: it does not see files that are opened outside of Python (a C library, another program) or under another
name (a hard link, a copy). Our own readers of that kind report what they open (lib/node/tensors.py).
"""

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

JOURNAL = "CADDIE_OPENED"  # environment variable: the running stage's journal, and the folder that its paths are relative to
ROOTS = ("artifacts", "data", ".dvc/cache")
NAME = "opened.json"


class _Journal:
    """What this process has written down already; `path` None: nothing is recorded."""

    path: str | None = None
    root = ""
    seen: set[str] = set()  # noqa: RUF012 (one journal per process)
    is_hooked = False


def is_worker() -> bool:
    """Whether torchrun started this process. WORLD_SIZE alone is no proof, as the environment may have set it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def recorded(record: Path) -> Iterator[None]:
    """Record the files that are opened inside the block into `record`. If the block fails, the older record stays with the older outputs. A
    worker of torchrun adds to the journal of the process that became torchrun."""
    record = Path(record).absolute()
    if not (is_worker() and JOURNAL in os.environ):
        journal = Path("scratch/opened").absolute() / f"{os.getpid()}.txt"
        journal.parent.mkdir(parents=True, exist_ok=True)
        for left in journal.parent.glob("*.txt"):  # left by torchrun: no worker knows that it is the last
            if left.stem.isdecimal() and Path("/proc/self").exists() and not Path("/proc", left.stem).exists():
                left.unlink(missing_ok=True)
        journal.write_bytes(b"")
        os.environ[JOURNAL] = f"{journal}\n{os.getcwd()}"
    join()
    journal = Path(_Journal.path)
    try:
        yield
        with open(journal, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # workers end one after the other; the last one sees all lines
            lines = sorted(set(handle.read().decode(errors="surrogateescape").splitlines()))
            record.parent.mkdir(parents=True, exist_ok=True)
            partial = record.with_name(f".{record.name}.{os.getpid()}.partial")
            partial.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8", errors="surrogateescape")
            os.replace(partial, record)
    finally:
        _Journal.path = None
        if not is_worker():
            os.environ.pop(JOURNAL, None)
            journal.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                os.removedirs(journal.parent)  # and its parents, as long as they are empty


def join() -> None:
    """Start to write into the journal that the environment names, if it names one. A process that a stage starts calls this first."""
    if JOURNAL not in os.environ:
        return
    _Journal.path, _Journal.root = os.environ[JOURNAL].split("\n")
    _Journal.seen = set()
    if not _Journal.is_hooked:
        sys.addaudithook(_hook)  # an audit hook cannot be removed
        _Journal.is_hooked = True


def report(path: Path) -> None:
    """Raise the event that Python would have raised. Readers that open files outside of Python call this."""
    sys.audit("open", str(path), "rb", os.O_RDONLY)


def _hook(event: str, arguments: tuple) -> None:
    """Called for every audit event of the process: the first line decides for nearly all of them."""
    if event != "open" or _Journal.path is None:
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
    for line in {given, real} - {None}:
        descriptor = os.open(_Journal.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, f"{line}\n".encode(errors="surrogateescape"))  # one write, so lines of several processes do not mix
        finally:
            os.close(descriptor)


def _relative(name: str) -> str | None:
    """The path from the stage's folder, if it lies under one of ROOTS."""
    if not name.startswith(_Journal.root + os.sep):
        return None
    path = name[len(_Journal.root) + 1 :]
    if ".partial" in path and any(part.endswith(".partial") for part in path.split(os.sep)):
        return None  # a file that the stage is writing (files.atomic), under a temporary name
    return path if path.startswith(tuple(f"{root}/" for root in ROOTS)) else None
