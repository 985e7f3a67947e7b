"""Files as every stage writes and reads them: atomically, as JSON with checks, and by their hashes."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` for a file or folder; it becomes `path` only if the block ends without error.

    A kill leaves at most a `.partial` entry, never a half-written `path`. Files are fsynced before the rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    old = partial.with_suffix(".old.partial")
    _remove(partial)
    _remove(old)
    _remove_stale(path)
    try:
        yield partial
        if partial.is_file():
            with open(partial, "rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():  # a folder cannot be replaced in one step: move the old one away whole, never delete it in place
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        _remove(partial)
        _remove(old)


def link(source: Path, path: Path) -> None:
    """Make a finished folder appear as `path`, which it replaces as a whole. `source` stays until its owner removes it, so that a
    kill in between costs nothing; the files are hard links where the file system allows, else copies."""
    with atomic(path) as partial:
        shutil.copytree(source, partial, copy_function=link_file)


def link_file(source: Path, path: Path) -> None:
    """A hard link, or a copy where that cannot be."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _remove_stale(path: Path) -> None:
    """Remove what killed processes left of `path`, which may be as large as the text."""
    for stale in path.parent.glob(f".{path.name}.*.partial"):
        owner = stale.name.removeprefix(f".{path.name}.").split(".")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and Path("/proc").is_dir():
            _remove(stale)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON, atomically. NaN and infinity are refused: no reader agrees on them."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, required: tuple[str, ...] = ()) -> dict:
    """Parse a JSON object; a ValueError names the file if it is none, or lacks a required key."""
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
