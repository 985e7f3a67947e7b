"""Read a submission.pyz whose author is not trusted: in bounded memory, and with one sentence for whatever is wrong with it.

A zip says how large its entries are, and a megabyte of deflated blanks is a gigabyte of blanks. So a file is read only if all its entries
together say that they unpack to no more than its own size and MOST_MORE bytes, and an entry never further than it says. Only the methods of
Python's zipimport are read here.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from stages.lib.node import files

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
PLAIN_FLAGS = 0b1000_0000_1110  # degree of compression, sizes behind the data, names in UTF-8; any other, such as encryption, is refused
MOST_MORE = 1 << 26  # no cap of the contest lets a file unpack to as much
MOST_MANIFEST = 1 << 22
DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)


def opened(pyz: Path) -> zipfile.ZipFile:
    """The archive, which is a context manager. ValueError if it is damaged, or says that it unpacks to more than is read."""
    try:
        archive = zipfile.ZipFile(pyz)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except DAMAGES as error:
        raise _unreadable(pyz, _said(error)) from None
    entries, size = archive.infolist(), archive.fp.seek(0, 2)
    strange = [entry for entry in entries if entry.compress_type not in METHODS or entry.flag_bits & ~PLAIN_FLAGS]
    why = ""
    if strange:
        why = f"the entry {strange[0].filename[:80]!r} is encrypted or packed by a method that Python does not import"
    elif sum(entry.compress_size for entry in entries) > size:
        why = "its entries lie in each other"
    elif (unpacked := sum(entry.file_size for entry in entries)) > size + MOST_MORE:
        why = f"it unpacks to {unpacked:,} bytes, and at most {size + MOST_MORE:,} are read"
    if why:
        archive.close()
        raise _unreadable(pyz, why)
    return archive


def content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """What is in one entry. ValueError if it is damaged, or if a manifest is too long to be one."""
    if entry.filename.endswith("manifest.json") and entry.file_size > MOST_MANIFEST:
        raise _unreadable(archive.filename, f"its manifest has {entry.file_size:,} bytes, and at most {MOST_MANIFEST:,} are read")
    try:
        with archive.open(entry) as member:
            found = member.read(entry.file_size + 1)
    except DAMAGES as error:
        raise _unreadable(archive.filename, f"the entry {entry.filename[:80]!r}: {_said(error)}") from None
    if len(found) != entry.file_size:
        raise _unreadable(archive.filename, f"the entry {entry.filename[:80]!r} is cut short")
    return found


def named(archive: zipfile.ZipFile, name: str) -> bytes:
    """What is in the entry of this name. ValueError if there is none."""
    if name not in archive.NameToInfo:
        raise _unreadable(archive.filename, f"it has no {name}")
    return content(archive, archive.getinfo(name))


def contents(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    """Every entry and what is in it."""
    for entry in archive.infolist():
        yield entry, content(archive, entry)


def manifest(pyz: Path, text: bytes) -> dict:
    """What the manifest of a submission says. ValueError if it is no JSON object."""
    try:
        found = files.json_of_others(text)
    except ValueError as error:
        raise _unreadable(pyz, f"its manifest is not valid JSON: {_said(error)}") from None
    if not isinstance(found, dict):
        raise _unreadable(pyz, "its manifest is no JSON object")
    return found


def _unreadable(pyz: Path | str, why: str) -> ValueError:
    return ValueError(f"{pyz} is not a readable submission ({why}); run: dvc repro package")


def _said(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
