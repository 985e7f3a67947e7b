"""Read the files of a folder within bounds: of time, of memory, and of what may be printed.

Links are not followed. A log is read line by line; of a large one the beginning and the end, with the numbers of the lines as they are.
What was not read is a sentence. Names and texts from a folder pass `printable` before anyone sees them, because a terminal obeys control
characters.
"""

import codecs
import errno
import gzip
import io
import json
import math
import os
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

FILES, DEPTH, LISTED = 3_000, 8, 32  # files deeper than DEPTH are named and not read
LOG_BYTES, ALL_LOG_BYTES = 16 << 20, 40 << 20  # of one log, and of all logs of a folder
TEXT_BYTES = 2 << 20  # of a README, a JSON file or a script to launch
SOURCE_BYTES, ALL_SOURCE_BYTES = 16_000_000, 40_000_000
LINE_BYTES = 4_096
DIGITS = 18  # of a whole number in JSON
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # categories of characters that are not printed: controls, overrides, separators of lines


def printable(text: str, limit: int = 400) -> str:
    """`text` in one line, with `\\x1b` and the like for what a terminal would obey."""
    out = []
    for character in text[: limit + 1]:
        if character == "\t" or unicodedata.category(character) not in HIDDEN:
            out.append(" " if character == "\t" else character)
        else:
            out.append(character.encode("unicode_escape", "backslashreplace").decode("ascii"))
    return "".join(out[:limit]) + ("..." if len(text) > limit else "")


def files(folder: Path) -> tuple[dict[str, Path], dict[str, str], list[str]]:
    """Regular files by their path in the folder; links and files that lie too deep, each with why it is not read; and one sentence for what
    was left out."""
    found: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for where, folders, names in os.walk(folder, followlinks=False):
        depth = len(Path(where).relative_to(folder).parts)
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        folders[:] = [] if depth >= LISTED else sorted(name for name in folders if name != ".git")
        for name in sorted([*names, *links]):
            path = Path(where) / name
            inside = str(path.relative_to(folder))
            if path.is_symlink():
                skipped[inside] = "it is a link"
            elif path.is_file() and depth > DEPTH:
                skipped[inside] = f"it lies more than {DEPTH} folders deep"
            elif path.is_file():
                found[inside] = path
            if len(found) + len(skipped) >= FILES:
                return found, skipped, [f"the folder has more than {FILES:,} files; the others were not read"]
    return found, skipped, []


def size(path: Path) -> int:
    """Bytes of a file, or 0 if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def unpacked(path: Path, most: int = LOG_BYTES) -> bytes:
    """The content of a gzip file; OSError if it is none, is cut off, or has more bytes than `most`."""
    try:
        with gzip.open(path) as handle:
            data = handle.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OSError(errno.EINVAL, "it is no complete gzip file") from error
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes when it is unpacked")
    return data


def lines(path: Path, most: int = LOG_BYTES, data: bytes | None = None) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a log: all of them, or of a large log the first quarter of `most` bytes and the last three. `data` is
    its content if it was packed."""
    size = path.stat().st_size if data is None else len(data)
    with open(path, "rb") if data is None else io.BytesIO(data) as handle:
        number = 0
        if size > most:
            for raw in _raw(handle, most // 4):
                number += 1
                yield number, raw
            number += _skipped(handle, size - 3 * (most // 4))
        for raw in _raw(handle, most):
            number += 1
            yield number, raw


def _raw(handle, most: int) -> Iterator[str]:
    while most > 0 and (raw := handle.readline(LINE_BYTES)):
        most -= len(raw)
        head = raw
        while raw[-1:] != b"\n" and most > 0 and (raw := handle.readline(1 << 16)):  # the rest of a long line
            most -= len(raw)
            head = head[: LINE_BYTES - 512] + raw[-512:]
        if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:64]:
            head = head.replace(b"\0", b"")
        yield head.decode("utf-8", "replace").rstrip("\n")


def _skipped(handle, until: int) -> int:
    """Move on to the first line after an offset; the number of lines passed."""
    count = 0
    while handle.tell() < until and (part := handle.read(min(1 << 20, until - handle.tell()))):
        count += part.count(b"\n")
    handle.readline(1 << 20)
    return count + 1


def text(path: Path, most: int = TEXT_BYTES) -> str:
    """The text of a file up to a bound."""
    with open(path, "rb") as handle:
        data = handle.read(most)
    # Windows' editors and its PowerShell write a mark of the byte order first
    marked = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    return data.decode(marked, "replace")


def parsed(path: Path) -> tuple[object, str, list[str]]:
    """(content of a JSON file, "", keys that one object has twice) or (None, why it cannot be read, [])."""
    if path.stat().st_size > TEXT_BYTES:
        return None, f"it has {path.stat().st_size:,} bytes, more than {TEXT_BYTES:,}", []
    repeated: dict[str, None] = {}

    def read(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            repeated.update((key, None) for key, _ in pairs if key in seen or seen.add(key))
        return found

    try:
        return json.loads(text(path), parse_int=_integer, object_pairs_hook=read), "", list(repeated)
    except RecursionError:
        return None, "it is no valid JSON: nested too deeply", []
    except json.JSONDecodeError as error:
        return None, f"it is no valid JSON at line {error.lineno}, column {error.colno}: {printable(error.msg, 120)}", []
    except (ValueError, MemoryError) as error:
        return None, f"it is no valid JSON: {printable(str(error), 120)}", []


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= DIGITS else math.inf
