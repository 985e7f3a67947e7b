"""Documents from a file or a folder of this machine: JSON lines with a `text` field, or plain text, one per file.

Suffixes: .jsonl, and .txt .md .rst, each also with .gz, .xz or .zst behind it. A folder is walked in sorted order;
its own README, and files and folders whose name starts with a dot, are not part of it. Compressed files are read as a
stream; only one document is held. A byte order mark at the start of a file is not text and is dropped; all else is
kept byte for byte, line ends included.
"""

import codecs
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stages.lib.data.split import Document

LINES = ".jsonl"
TEXT = (".txt", ".md", ".rst")
COMPRESSED = (".gz", ".xz", ".zst")
AN_OBJECT = 'each line must be an object such as {"text": "..."}'
README = re.compile(r"readme(\.|$)", re.IGNORECASE)
MAX_LINE_BYTES = 1 << 28   # a longer line is no document but a file without line ends
ZSTD_READ_BYTES = 1 << 13  # one read may produce some 30,000 times as much


def documents(path: Path) -> Iterator[Document]:
    """The documents under `path`, in order, empty ones included; the unit of each is its own text.

    ValueError, naming the file and the line or byte offset, for a path that is missing, a suffix that is not known,
    text that is not UTF-8, a line that is not a JSON object with a string `text`, a compressed file that is damaged.
    """
    for file in files(path):
        with _open(file) as handle, _naming(file):
            yield from _lines(file, handle) if _kind(file) == LINES else _whole(file, handle)


def files(path: Path) -> list[Path]:
    """`path` itself, or the files below it, sorted by relative path; ValueError for what holds no documents."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} is missing; set prepare.path to a file or folder of documents, or prepare.source "
                         "to builtin")
    found = [path]
    if path.is_dir():
        found = []
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(folder, name) for name in names if not name.startswith(".")]
        found = [file for file in found if not (file.parent == path and README.match(file.name))]
        found.sort(key=lambda file: file.relative_to(path).parts)
        if not found:
            raise ValueError(f"{path} holds no files; put documents there, or set prepare.source to builtin")
    for file in found:
        if not file.is_file():
            raise ValueError(f"{file} is not a file (a dangling link or a device); remove it")
        if _kind(file) not in (LINES, *TEXT):
            raise ValueError(f"{file} has an unknown suffix; prepare reads {LINES} {' '.join(TEXT)}, each also with "
                             f"{' '.join(COMPRESSED)} behind it: rename the file or move it elsewhere")
    return found


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix in COMPRESSED else suffix


def _open(file: Path) -> BinaryIO:
    suffix = file.suffix.lower()
    if suffix == ".gz":
        return gzip.open(file, "rb")
    if suffix == ".xz":
        return lzma.open(file, "rb")
    return io.BufferedReader(_Zstd(file), 1 << 16) if suffix == ".zst" else open(file, "rb")


class _Zstd(io.RawIOBase):
    """Zstandard as a stream of one or more frames. zstandard's own reader takes a cut file for a complete one."""

    def __init__(self, file: Path):
        self.file = open(file, "rb")  # noqa: SIM115 (closed by close)
        self.decompressor = None
        self.produced = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.produced:
            if self.decompressor is None or self.decompressor.eof:
                compressed = self.decompressor.unused_data if self.decompressor else b""
                compressed = compressed or self.file.read(ZSTD_READ_BYTES)
                if not compressed:
                    return 0
                self._start()
            else:
                compressed = self.file.read(ZSTD_READ_BYTES)
                if not compressed:
                    raise EOFError("the last frame has no end")
            self.produced = memoryview(self.decompressor.decompress(compressed))
        count = min(len(buffer), len(self.produced))
        buffer[:count] = self.produced[:count]
        self.produced = self.produced[count:]
        return count

    def _start(self) -> None:
        import zstandard

        # Files made with `zstd --long=31` need the whole window.
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()

    def close(self) -> None:
        self.file.close()
        super().close()


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    import zstandard

    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise ValueError(f"{file} is cut short or damaged ({error}); fetch it or make it again") from None


def _whole(file: Path, handle: BinaryIO) -> Iterator[Document]:
    content = handle.read()
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    text = _decode(content[start:], file, start)
    yield Document(text, text)


def _lines(file: Path, handle: BinaryIO) -> Iterator[Document]:
    offset, number = 0, 0
    while line := handle.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"{file}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"{where}: longer than {MAX_LINE_BYTES} bytes; write one document per line")
        start = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
        content = _decode(line[start:], where, offset + start)
        offset += len(line)
        if content.strip():
            text = _text(content, where)
            yield Document(text, text)


def _decode(content: bytes, where: Path | str, offset: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {offset + error.start} is not valid UTF-8 ({error.reason}); convert the "
                         "file, for example with: iconv -f latin1 -t utf-8") from None


def _text(content: str, where: str) -> str:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error}); {AN_OBJECT}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a {type(value).__name__}, not an object; {AN_OBJECT}")
    if "text" not in value:
        has = ", ".join(sorted(value)) or "nothing"
        raise ValueError(f"{where}: the object lacks \"text\" (it has {has}); {AN_OBJECT}")
    text = value["text"]
    if not isinstance(text, str):
        raise ValueError(f"{where}: \"text\" is a {type(text).__name__}, not a string; {AN_OBJECT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: character {error.start} of \"text\" is half of a surrogate pair, which is no "
                         "text; remove it, or write the pair in full") from None
    return text
