"""Read the files of a folder within bounds: of time, of memory, and of what may be printed.

Links are not followed. A log is read line by line; of a large one the beginning and the end, with the numbers of the lines as they are.
What was not read is a sentence. Names and texts from a folder pass `printable` before anyone sees them, because a terminal obeys control
characters.
"""

import json
import math
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

FILES, DEPTH = 3_000, 8
LOG_BYTES, ALL_LOG_BYTES = 16 << 20, 40 << 20  # of one log, and of all logs of a folder
TEXT_BYTES = 2 << 20  # of a README, a JSON file or a script to launch
SOURCE_BYTES, ALL_SOURCE_BYTES = 16_000_000, 40_000_000
LINE_BYTES = 4_096
DIGITS = 18  # of a whole number in JSON
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


def files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Regular files by their path in the folder, and one sentence for what was left out."""
    found, left_out = {}, []
    for where, folders, names in os.walk(folder, followlinks=False):
        depth = len(Path(where).relative_to(folder).parts)
        folders[:] = [] if depth >= DEPTH else sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            path = Path(where) / name
            if path.is_symlink() or not path.is_file():
                continue
            found[str(path.relative_to(folder))] = path
            if len(found) >= FILES:
                return found, [f"the folder has more than {FILES:,} files; the others were not read"]
    return found, left_out


def size(path: Path) -> int:
    """Bytes of a file, or 0 if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def lines(path: Path, most: int = LOG_BYTES) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a log: all of them, or of a large log the first quarter of `most` bytes and the last three."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
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
        return handle.read(most).decode("utf-8", "replace")


def parsed(path: Path) -> tuple[object, str]:
    """(content of a JSON file, "") or (None, why it cannot be read)."""
    if path.stat().st_size > TEXT_BYTES:
        return None, f"it has {path.stat().st_size:,} bytes, more than {TEXT_BYTES:,}"
    try:
        return json.loads(text(path), parse_int=_integer), ""
    except RecursionError:
        return None, "it is no valid JSON: nested too deeply"
    except (ValueError, MemoryError) as error:
        return None, f"it is no valid JSON: {printable(str(error), 120)}"


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= DIGITS else math.inf
