"""Record which data files a stage opens for reading. The lineage check compares this record with what the stage declares.

Python raises an audit event for every file that it opens. While a stage runs, each such file under artifacts/, data/ or DVC's cache becomes
a line. The process that begins the run keeps its lines in memory, and makes the run's folder under a random name in scratch/opened/. Every
other process of the run (torchrun's workers, pools) inherits the folder's path and has a file of its own in it. At the end the process that
began the run writes all lines, sorted, as the record, so equal runs give equal bytes. It alone removes the folder. No process asks whether
another one is alive, because process numbers mean nothing in another container or on another machine. What killed runs leave goes by age.

This is a guard and not a sandbox: it does not see files that are opened outside of Python (a C library, another program) or under another
name (a hard link, a copy). Our own readers of that kind report what they open (lib/node/tensors.py).
"""

import contextlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.lib.node import files

JOURNAL = "CADDIE_OPENED"  # environment variable: the folder of the run, and the folder that its paths are relative to
ROOTS = ("artifacts", "data", ".dvc/cache")
NAME = "opened.json"
RESERVED_BYTES = 1 << 16


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


@contextlib.contextmanager
def recorded(record: Path) -> Iterator[None]:
    """Record the files that are opened inside the block into `record`. If the block fails, the older record stays with the older outputs.

    A worker that `launch.relaunched` started adds to the run of the process that did so. If torchrun was started by hand, each worker
    begins a run, and `launch.world` gives the lines of all of them to rank 0, which writes the record.
    """
    if is_worker() and JOURNAL in os.environ:
        join()
        try:
            yield
        finally:
            _leave()
        return
    record, folder = Path(record).absolute(), Path("scratch/opened").absolute() / uuid.uuid4().hex
    partial = record.with_name(f".{record.name}.{folder.name}.partial")
    for new in (folder, record.parent):
        new.mkdir(parents=True, exist_ok=True)
    files.remove_old([*folder.parent.glob("*"), *record.parent.glob(f".{record.name}.*.partial")])
    partial.write_bytes(bytes(RESERVED_BYTES))  # a disk that is full when the stage ends has room for the record all the same
    os.environ[JOURNAL] = f"{folder}\n{os.getcwd()}"
    _begin(os.getcwd())
    try:
        yield
        if os.environ.get("RANK", "0") == "0" or not is_worker():
            _write(record, partial, folder)
    finally:
        _leave()
        del os.environ[JOURNAL]
        partial.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _write(record: Path, partial: Path, folder: Path) -> None:
    """Write the record. If the run's folder was removed from outside, the record says so and the audit does not rule on it: the outputs are
    good all the same, and must not be lost with their record."""
    try:
        parts = [part.read_bytes().decode(errors="surrogateescape") for part in folder.iterdir()]
        content = sorted(_Journal.lines.union(*(part.splitlines() for part in parts)))
    except OSError as error:
        content = {"incomplete": f"{folder.name}: {error.strerror}"}
        print(
            f"caddie: {record} is incomplete, as {folder} is gone; the outputs are complete, but the audit cannot rule on them",
            file=sys.stderr,
        )
    with open(partial, "r+b") as handle:
        handle.write((json.dumps(content, indent=1) + "\n").encode(errors="surrogateescape"))
        handle.truncate()
    os.replace(partial, record)


def join() -> None:
    """Take part in the run that the environment names, if it names one. A process that a stage starts calls this first."""
    if JOURNAL in os.environ:
        folder, root = os.environ[JOURNAL].split("\n")
        _begin(root, os.open(Path(folder) / uuid.uuid4().hex, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def _begin(root: str, file: int | None = None) -> None:
    _leave()
    _Journal.root, _Journal.file, _Journal.seen, _Journal.lines = root, file, set(), set()
    if not _Journal.is_hooked:
        sys.addaudithook(_hook)  # an audit hook cannot be removed
        _Journal.is_hooked = True


def _leave() -> None:
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
