"""Documents from a file or a folder of this machine: JSON lines or parquet with a `text` field, or plain text, one per file.

Suffixes: .jsonl, .txt, .md and .rst, each also followed by .gz, .xz or .zst, and .parquet. A folder is read in sorted order, without its
own README and without files and folders whose name starts with a dot. A byte order mark at the start of a file is dropped; everything else
is kept byte for byte, line ends included.

Reading is divided into `tasks` of a few MB, in order, which other processes may parse. Compressed files are read as a stream, and only the
tasks in progress are held in memory.
"""

import codecs
import contextlib
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stages.lib.text import corpus
from stages.prepare import split
from stages.prepare.split import Document

LINES = ".jsonl"
TEXT = (".txt", ".md", ".rst")
PARQUET = ".parquet"
COMPRESSED = (".gz", ".xz", ".zst")
AN_OBJECT = 'each line must be an object such as {"text": "..."}'
README = re.compile(r"readme(\.|$)", re.IGNORECASE)
MAX_LINE_BYTES = 1 << 28  # a longer line is probably a file without line ends
ZSTD_READ_BYTES = 1 << 13  # one read may decompress to some 30,000 times as much
TASK_BYTES = 1 << 22
PARQUET_ROWS = 1024  # about 3 MB of FineWeb


class Lines(NamedTuple):
    """Complete lines of a .jsonl file. `number` is that of the first line, or None if nobody counted the lines before it; `offset` is its
    position in the decompressed file."""

    file: Path
    number: int | None
    offset: int
    content: bytes


class Whole(NamedTuple):
    """Files that are one document each."""

    files: tuple[Path, ...]


class Rows(NamedTuple):
    """Some rows of a parquet file. `number` is that of the first row."""

    file: Path
    number: int
    texts: list


def documents(path: Path) -> Iterator[Document]:
    """The documents under `path`, in order, empty ones included. The unit of each is its own text.

    ValueError, naming the file and the line or byte offset, for a missing path, an unknown suffix, text that is not UTF-8, a line that is
    not a JSON object with a string `text`, or a damaged file.
    """
    for task in tasks(files(path)):
        yield from parse(task)


def tasks(files: list[Path], span: tuple[int, int] | None = None) -> Iterator[Lines | Whole | Rows]:
    """Divide the reading of `files` into tasks for `parse`, in order.

    `span` chooses a part of range(length(files)). A line of an uncompressed .jsonl file, or any other file as a whole, belongs to the part
    in which it begins.
    """
    small: list[Path] = []
    used, position = 0, 0
    first, last = span or (0, length(files))
    for file in files:
        kind, size = _kind(file), file.stat().st_size
        start, end = max(0, first - position), min(size, last - position)
        begins_here, position = first <= position < last, position + size + 1
        is_in_lines = file.suffix.lower() == LINES
        if start >= end if is_in_lines else not begins_here:
            continue
        if kind in TEXT:
            small.append(file)
            used += file.stat().st_size
        if small and (kind not in TEXT or used >= TASK_BYTES):
            yield Whole(tuple(small))
            small, used = [], 0
        if kind == LINES:
            yield from _line_tasks(file, *((start, end) if is_in_lines else (0, None)))
        elif kind == PARQUET:
            yield from _row_tasks(file)
    if small:
        yield Whole(tuple(small))


def length(files: list[Path]) -> int:
    """Bytes of all files, and one for each, so that an empty one has a place too."""
    return sum(file.stat().st_size + 1 for file in files)


def parse(task: Lines | Whole | Rows) -> Iterator[Document]:
    """The documents of one task, in order."""
    if isinstance(task, Lines):
        yield from _lines(task)
    elif isinstance(task, Whole):
        for file in task.files:
            with _open(file) as handle, _naming(file):
                yield from _whole(file, handle)
    else:
        yield from _rows(task)


def files(path: Path) -> list[Path]:
    """`path` itself, or the files below it, sorted by relative path. ValueError if it contains no documents."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} is missing; set prepare.path to a file or folder of documents, or prepare.source to builtin")
    found = [path]
    if path.is_dir():
        found = [file for file in corpus.walk(path) if not (file.parent == path and README.match(file.name))]
        found.sort(key=lambda file: file.relative_to(path).parts)
        if not found:
            raise ValueError(f"{path} holds no files; put documents there, or set prepare.source to builtin")
    for file in found:
        if not file.is_file():
            raise ValueError(f"{file} is not a file (a dangling link or a device); remove it")
        if _kind(file) not in (LINES, PARQUET, *TEXT):
            raise ValueError(
                f"{file} has an unknown suffix; prepare reads {LINES} {' '.join(TEXT)}, each also with "
                f"{' '.join(COMPRESSED)} behind it, and {PARQUET}: rename the file or move it elsewhere"
            )
    return found


def amount(found: list[Path]) -> tuple[int, bool]:
    """Bytes of the files, and whether that says little about the bytes of their text, because some are compressed."""
    return sum(file.stat().st_size for file in found), any(file.suffix.lower() in (*COMPRESSED, PARQUET) for file in found)


def note_what_is_ignored(folder: Path) -> None:
    """Say which files of documents are not read beside token shards."""
    others = [path for path in corpus.walk(folder) if path.suffix in (LINES, PARQUET)]
    if others:
        print(f"{folder} holds token shards, so {len(others)} files of documents in it are not read, such as {others[0]}")


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

    damaged: tuple = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstandard.ZstdError)
    if file.suffix.lower() == PARQUET:
        import pyarrow

        damaged = (pyarrow.ArrowInvalid, pyarrow.ArrowException, OSError, UnicodeDecodeError)
    try:
        yield
    except damaged as error:
        raise ValueError(f"{file} is cut short or damaged ({error}); fetch it or make it again") from None


def _whole(file: Path, handle: BinaryIO) -> Iterator[Document]:
    content = handle.read(MAX_LINE_BYTES + 1)
    if len(content) > MAX_LINE_BYTES:
        raise ValueError(f"{file} has more than {MAX_LINE_BYTES} bytes, and a text file is one document; write JSON lines instead")
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    text = _decode(content[start:], file, start)
    yield Document(text, text)


def block(task: Lines | Whole | Rows, rule: split.Hashed | split.First) -> split.Block:
    """The documents of one task, serialised as they are written. Other processes run this function."""
    return split.block(parse(task), rule)


def _line_tasks(file: Path, start: int, end: int | None) -> Iterator[Lines]:
    """The lines that begin in [start, end); `end` None: all."""
    offset, number = start, None if start else 1
    with _open(file) as handle, _naming(file):
        if start:
            handle.seek(start - 1)
            while not (skipped := handle.readline(TASK_BYTES)).endswith(b"\n") and skipped:
                pass  # the rest of a line that began before `start`
            offset = handle.tell()
        rest = b""
        while (end is None or offset < end) and (content := handle.read(TASK_BYTES)):
            cut = content.rfind(b"\n") + 1
            last = -1 if end is None else content.find(b"\n", max(0, end - 1 - offset - len(rest)))
            if last >= 0:
                cut = last + 1  # the line that ends here is the last one that begins before `end`
            if not cut:
                rest += content
                if len(rest) > MAX_LINE_BYTES:
                    where = f"line {number}" if number else f"the line at byte {offset}"
                    raise ValueError(f"{file}, {where}: longer than {MAX_LINE_BYTES} bytes; write one document per line")
                continue
            complete, rest = rest + content[:cut], content[cut:]
            yield Lines(file, number, offset, complete)
            offset += len(complete)
            number = number and number + complete.count(b"\n")
            if last >= 0:
                return
        if rest and (end is None or offset < end):
            yield Lines(file, number, offset, rest)


def _lines(task: Lines) -> Iterator[Document]:
    offset = task.offset
    for index, line in enumerate(task.content.split(b"\n")):
        where = f"{task.file}, line {task.number + index}" if task.number else f"{task.file}, the line at byte {offset}"
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"{where}: longer than {MAX_LINE_BYTES} bytes; write one document per line")
        start = len(codecs.BOM_UTF8) if not offset and line.startswith(codecs.BOM_UTF8) else 0
        content = _decode(line[start:], where, offset + start)
        offset += len(line) + 1
        if content.strip():
            text = _text(content, where)
            yield Document(text, text)


def _row_tasks(file: Path) -> Iterator[Rows]:
    import pyarrow.parquet

    number = 1
    with _naming(file):
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        if names.count("text") != 1:
            raise ValueError(f'{file} has {names.count("text")} columns "text" (all: {", ".join(names)}); rename the one to read')
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=["text"]):
            texts = batch.column(0).to_pylist()
            yield Rows(file, number, texts)
            number += len(texts)


def _rows(task: Rows) -> Iterator[Document]:
    for number, text in enumerate(task.texts, task.number):
        if not isinstance(text, str):
            raise ValueError(f'{task.file}, row {number}: "text" is a {type(text).__name__}, not a string; drop such rows')
        yield Document(text, text)


def _decode(content: bytes, where: Path | str, offset: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content
        encoding = "utf-32" if content.startswith(codecs.BOM_UTF32_LE) else "utf-16" if is_utf16 else "latin1"
        raise ValueError(
            f"{where}: byte {offset + error.start} is not valid UTF-8 ({error.reason}); convert the "
            f"file, for example with: iconv -f {encoding} -t utf-8"
        ) from None


def _text(content: str, where: str) -> str:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error}); {AN_OBJECT}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a {type(value).__name__}, not an object; {AN_OBJECT}")
    if "text" not in value:
        has = ", ".join(sorted(value)) or "nothing"
        raise ValueError(f'{where}: the object lacks "text" (it has {has}); {AN_OBJECT}')
    text = value["text"]
    if not isinstance(text, str):
        raise ValueError(f'{where}: "text" is a {type(text).__name__}, not a string; {AN_OBJECT}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f'{where}: character {error.start} of "text" is half of a surrogate pair, which is no '
            "text; remove it, or write the pair in full"
        ) from None
    return text
