"""Write and read files as every stage does: atomic writes, checked JSON, and hashes."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

LEFT_OVER_SECONDS = 30 * 86400  # no run takes so long


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` for a file or folder. It is renamed to `path` only if the block ends without error.

    If the process is killed, at most a `.partial` entry is left, never a half-written `path`. Files are fsynced before the rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    partial = path.with_name(f".{path.name}.{_place()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    old = partial.with_suffix(".old.partial")
    try:
        yield partial
        if partial.is_file():
            with open(partial, "rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():  # a folder cannot be replaced in one step, so move the whole old one away instead of deleting it in place
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        _remove(partial)
        _remove(old)


def link(source: Path, path: Path) -> None:
    """Make a finished folder appear as `path`, replacing whatever was there. `source` stays until its owner removes it, so a kill in
    between loses nothing. The files are hard links where the file system allows them, else copies."""
    with atomic(path) as partial:
        shutil.copytree(source, partial, copy_function=link_file)


def link_file(source: Path, path: Path) -> None:
    """Make a hard link, or a copy where a link is not possible."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _remove_left(path: Path) -> None:
    """Remove what killed processes left of `path`, which may be as large as the text: at once where their number means something, which is
    under the same kernel and among the same process numbers, else by age."""
    partials = list(path.parent.glob(f".{path.name}.*.partial"))
    for partial in partials:
        place, _, owner = partial.name.removeprefix(f".{path.name}.").partition(".")
        owner = owner.partition(".")[0]
        if place == _place() and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            _remove(partial)
    remove_old(partials)


@functools.cache
def _place() -> str:
    """The same text in all processes that see each other's numbers, and in no other: a random one where that cannot be known."""
    try:
        facts = Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self")
        if int(facts[2]) != os.getpid():  # /proc is that of other process numbers
            raise OSError
    except OSError:
        facts = (uuid.uuid4().hex,)
    return hashlib.sha256(repr(facts[:2]).encode()).hexdigest()[:12]


def remove_old(left: Iterable[Path]) -> None:
    """Remove files and folders that nothing was written to for longer than any run takes: killed runs left them."""
    for path in left:
        with contextlib.suppress(OSError):  # another process removes it too
            newest = max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
            if time.time() - newest > LEFT_OVER_SECONDS:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON, atomically. NaN and infinity are refused, because JSON readers disagree about them."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, required: tuple[str, ...] = ()) -> dict:
    """Parse a JSON object. ValueError naming the file if it is not a JSON object or lacks a required key."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and rerun the stage that makes it") from None
    for key in required:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{path} has no {key!r}; delete it and rerun the stage that makes it")
    return content


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def md5(path: Path) -> str:
    """Hex digest of a file as DVC records it."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()
