"""Write and read files as every stage does: atomic writes, checked JSON, and hashes."""

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

DEEPEST = 64


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` for a file or folder. It is renamed to `path` only if the block ends without error.

    If the process is killed, at most a `.partial` entry is left, which a later run of the stage removes, never a half-written `path`. Files
    are fsynced before the rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{place()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
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
        remove(partial)
        remove(old)


def check_writable(path: Path, option: str, *, is_file: bool = False) -> None:
    """ValueError unless `atomic` can make `path`, which `option` names: asked before the work, which would be lost. By trying, because root
    is told that it may write below /proc. `is_file`: a folder there would be replaced, so it is refused."""
    path = Path(path)
    try:
        if is_file and path.is_dir():
            raise ValueError(f"{option} {path} is a folder, and a file is written there; name a file")
        there = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        probe = there / f".{path.name}.{place()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.old.partial"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise ValueError(
            f"{option} {str(path)[:200]} cannot be written: nothing can be made there ({error.strerror}); name another"
        ) from None


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


@functools.cache
def place() -> str:
    """The same text in all processes that see each other's numbers, and in no other: a random one where that cannot be known."""
    try:
        facts = Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self")
        if int(facts[2]) != os.getpid():  # /proc is that of other process numbers
            raise OSError
    except OSError:
        facts = (uuid.uuid4().hex,)
    return hashlib.sha256(repr(facts[:2]).encode()).hexdigest()[:12]


def remove(path: Path) -> None:
    """Remove a file or folder, if there is one."""
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
    except (ValueError, RecursionError) as error:  # no JSON or no UTF-8, a number of thousands of digits, or nested without end
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and rerun the stage that makes it") from None
    for key in required:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{path} has no {key!r}; delete it and rerun the stage that makes it")
    return content


def json_of_others(text: str | bytes):
    """What JSON of a stranger says. ValueError, which says what is wrong but not where the text is from, unless it can be written as JSON
    again and is nested at most DEEPEST times: so nothing that walks through it comes to the end of Python's stack."""
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [found]
    for _ in range(DEEPEST):
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())]
    if level:
        raise ValueError("it is nested too deeply")
    return found


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text[:40]} is no number of JSON that can be written again")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def md5(path: Path) -> str:
    """Hex digest of a file as DVC records it."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()
