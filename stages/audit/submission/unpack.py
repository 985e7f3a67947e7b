"""Read the source inside a self-extracting script, without executing it.

A packed script is `exec(decompress(b85decode("...")))` in some spelling. The script is parsed, never run. Only constants, names that are
assigned once to constants, decoders and decompressors of the standard library (and brotli, zstandard) are evaluated, by the table below,
each up to a bound. If the result is Python again, it is the next layer; Python files in an archive or a JSON object are layers too.

    value ::= constant | name | value + value | [value, ...] | {value: value} | module.CONSTANT | decoder(value) | value.method()

Bounds: SCRIPT_BYTES for each text, LAYERS deep, FILES in an archive. Errors: ValueError with one sentence.
"""

import ast
import base64
import binascii
import bz2
import contextlib
import io
import json
import lzma
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

SCRIPT_BYTES = 16_000_000  # limit for one decoded text: a script cannot be larger than the whole artifact may be
LAYERS, FILES = 6, 2_000
MEMORY = 256 << 20  # bytes that the LZMA decoder may use
SMALLEST = 64  # characters; a shorter constant is not a packed script
DEPTH = 40  # nesting of an expression, including the names that it refers to


@dataclass(frozen=True)
class Layer:
    """A piece of source code; `name` says how it was reached (`train_gpt.py > lzma`)."""

    name: str
    source: str
    tree: ast.Module


class _NotAValue(Exception):
    """An expression that is not in the table."""


def layers(name: str, text: str) -> tuple[list[Layer], list[str]]:
    """The script and all layers that it unpacks, outermost first; and one sentence for each part that could not be read."""
    found, unread = [], []
    queue = [(name, text, 0)]
    while queue:
        name, text, depth = queue.pop(0)
        tree, why = parse(text)
        if tree is None:
            unread.append(f"{name} is no Python that can be read ({why})")
            continue
        found.append(Layer(name, text, tree))
        if depth == LAYERS or len(found) > FILES:
            unread.append(f"{name} unpacks further than {LAYERS} layers or {FILES} files")
            continue
        inner, missed = _contents(tree, name)
        queue += [(inner_name, source, depth + 1) for inner_name, source in inner]
        unread += missed
    return found, unread


PARSER = threading.Lock()  # Python 3.11 counts the depth of all threads' trees together, and fails if they mix (gh-106905)


def parse(text: str) -> tuple[ast.Module | None, str]:
    """(syntax tree, "") of a source, or (None, why it cannot be parsed). Extreme nesting is such a reason; it does not end this process."""
    if len(text) > SCRIPT_BYTES:
        return None, f"more than {SCRIPT_BYTES:,} characters"
    try:
        with PARSER, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about escapes in the script do not matter here
            return ast.parse(text), ""
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more is known'}"


def _contents(tree: ast.Module, name: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Sources that a module unpacks, and one sentence for each thing that it executes and that could not be read."""
    reader, found, missed, done = _Reader(tree), [], [], set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in done:
            continue
        how = _called(node)
        if how in DECODERS or how in METHODS:
            try:
                data = reader.value(node)
            except _NotAValue:
                continue
            except ValueError as error:
                missed.append(f"{name}, line {node.lineno}: {error}")
                data = None
            done |= {id(part) for part in ast.walk(node)}  # the outermost call includes all inner ones
            if data is None:
                continue
            sources = _sources(data, f"{name} > {how}")
            found += sources
            if not sources and len(data) >= SMALLEST and not _is_plain(data):
                missed.append(f"{name}, line {node.lineno}: {how} gives {len(data):,} bytes that are no Python source")
        elif how in ("exec", "eval") and isinstance(node.func, ast.Name) and node.args and not reader.reads(node.args[0]):
            missed.append(f"{name}, line {node.lineno}: {how} runs what is put together at run time")
    return found, missed


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


class _Reader:
    """Evaluates the expressions of the table in one module. A name has a value if the module assigns it once. A decoder is recognised by
    its function's name, not by the module's alias. The total size of all values is bounded, because nested sums double with every name."""

    def __init__(self, tree: ast.Module):
        self.names: dict[str, ast.expr | None] = {}
        self.left = 8 * SCRIPT_BYTES
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                self.names[name] = None if name in self.names else node.value

    def reads(self, node: ast.expr) -> bool:
        """Whether an executed expression is a value of the table, or compile() of one."""
        if isinstance(node, ast.Call) and _called(node) == "compile" and node.args:
            node = node.args[0]
        try:
            self.value(node)
            return True
        except _NotAValue:
            return False
        except ValueError:
            return True  # reading it was tried, and the failure is reported elsewhere

    def value(self, node: ast.expr, depth: int = 0):
        """The value of an expression. _NotAValue if it is not in the table; ValueError if a decoder refuses it or it exceeds a bound."""
        if depth > DEPTH:
            raise _NotAValue
        found = self._value(node, depth + 1)
        if isinstance(found, str | bytes):
            self.left -= len(found)
        if self.left < 0:
            raise ValueError(f"its constants come to more than {8 * SCRIPT_BYTES:,} bytes")
        return found

    def _value(self, node: ast.expr, depth: int):
        match node:
            case ast.Constant(value=str() | bytes() | int() | None):
                return node.value
            case ast.Name(id=name) if self.names.get(name) is not None:
                return self.value(self.names[name], depth)
            case ast.Attribute(attr=constant) if constant.isupper() and isinstance(getattr(lzma, constant, None), int):
                return getattr(lzma, constant)
            case ast.BinOp(op=ast.Add() | ast.BitOr()):
                left, right = self.value(node.left, depth), self.value(node.right, depth)
                kind = (str | bytes) if isinstance(node.op, ast.Add) else int
                if type(left) is not type(right) or not isinstance(left, kind):
                    raise _NotAValue
                return left + right if isinstance(node.op, ast.Add) else left | right
            case ast.List() | ast.Tuple():
                return [self.value(item, depth) for item in node.elts]
            case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
                return {key.value: self.value(item, depth) for key, item in zip(node.keys, node.values, strict=True)}
            case ast.Call():
                return self._call(node, depth)
        raise _NotAValue

    def _call(self, node: ast.Call, depth: int):
        how = _called(node)
        if any(keyword.arg is None for keyword in node.keywords):
            raise _NotAValue
        arguments = [self.value(argument, depth) for argument in node.args]
        named = {keyword.arg: self.value(keyword.value, depth) for keyword in node.keywords}
        try:
            if how in DECODERS and arguments and isinstance(arguments[0], str | bytes):
                return DECODERS[how](*arguments, **named)
            if how in METHODS and isinstance(node.func, ast.Attribute):
                owner = self.value(node.func.value, depth)
                if isinstance(owner, METHODS[how]):
                    return getattr(owner, how)(*arguments, **named)
        except (TypeError, binascii.Error, zlib.error, lzma.LZMAError, OSError, EOFError, UnicodeError, LookupError, MemoryError) as error:
            raise ValueError(f"{how} refuses its data ({type(error).__name__}: {error})") from None
        raise _NotAValue


def _decompress(data: bytes, *positional, format=None, filters=None, wbits: int = zlib.MAX_WBITS, **more) -> bytes:
    """Any `decompress`, of whichever module: LZMA by its filters or magic, else the first decompressor that accepts the data. Bounded."""
    if not isinstance(data, bytes):
        raise TypeError("it takes bytes")
    if positional and isinstance(positional[0], int) and format is None and filters is None:
        wbits = positional[0]
    if filters is not None or format == lzma.FORMAT_RAW:
        for entry in filters or []:
            if int(entry.get("dict_size", 0)) > MEMORY:
                raise ValueError(f"an LZMA dictionary of {entry['dict_size']:,} bytes is asked for")
        return _whole(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters))(data)
    attempts: list[Callable[[bytes], bytes]] = []
    if data[:6] == b"\xfd7zXZ\0" or data[:1] == b"\x5d":
        attempts.append(lambda raw: _whole(lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=MEMORY))(raw))
    if data[:3] == b"BZh":
        attempts.append(lambda raw: _whole(bz2.BZ2Decompressor())(raw))
    if data[:4] == b"\x28\xb5\x2f\xfd":
        attempts.append(_zstandard)
    attempts += [lambda raw: _inflate(raw, wbits), lambda raw: _inflate(raw, wbits | 32 if wbits > 0 else -15), _brotli]
    for attempt in attempts:
        with contextlib.suppress(zlib.error, lzma.LZMAError, OSError, EOFError, ImportError, TypeError):
            return attempt(data)
    raise zlib.error("no known decompressor takes it")


def _whole(decompressor) -> Callable[[bytes], bytes]:
    return lambda data: _bounded(decompressor.decompress(data, SCRIPT_BYTES + 1))


def _inflate(data: bytes, wbits: int) -> bytes:
    decompressor = zlib.decompressobj(wbits)
    out = _bounded(decompressor.decompress(data, SCRIPT_BYTES + 1))
    if not decompressor.eof:
        raise zlib.error("the stream ends early")
    return out


def _brotli(data: bytes) -> bytes:
    import brotli

    decompressor, parts, total = brotli.Decompressor(), [], 0
    try:
        part = decompressor.process(data, output_buffer_limit=SCRIPT_BYTES + 1)
        while part and total <= SCRIPT_BYTES:
            parts.append(part)
            total += len(part)
            part = b"" if decompressor.is_finished() else decompressor.process(b"", output_buffer_limit=SCRIPT_BYTES + 1)
    except brotli.error as error:
        raise zlib.error(str(error)) from None
    if not decompressor.is_finished():
        _bounded(b"".join(parts))
        raise zlib.error("the stream ends early")
    return _bounded(b"".join(parts))


def _zstandard(data: bytes) -> bytes:
    import zstandard

    try:
        return _bounded(zstandard.ZstdDecompressor(max_window_size=MEMORY).stream_reader(data).read(SCRIPT_BYTES + 1))
    except zstandard.ZstdError as error:
        raise zlib.error(str(error)) from None


def _bounded(data: bytes) -> bytes:
    if len(data) > SCRIPT_BYTES:
        raise ValueError(f"it unpacks to more than {SCRIPT_BYTES:,} bytes")
    return data


DECODERS: dict[str, Callable] = {
    "b85decode": base64.b85decode,
    "a85decode": base64.a85decode,
    "b64decode": base64.b64decode,
    "b32decode": base64.b32decode,
    "b16decode": base64.b16decode,
    "urlsafe_b64decode": base64.urlsafe_b64decode,
    "standard_b64decode": base64.standard_b64decode,
    "unhexlify": binascii.unhexlify,
    "a2b_base64": binascii.a2b_base64,
    "fromhex": bytes.fromhex,
    "decompress": _decompress,
}
METHODS: dict[str, type | tuple] = {"decode": bytes, "encode": str, "strip": (str, bytes)}


def _sources(data, name: str) -> list[tuple[str, str]]:
    """The Python sources in unpacked data: the data itself, the .py members of an archive, or the texts of a JSON object."""
    if isinstance(data, bytes) and data[:2] == b"PK":
        return _archive(data, name)
    text = data
    if isinstance(data, bytes):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return []
    if not isinstance(text, str) or len(text) < SMALLEST:
        return []
    if text.lstrip()[:1] == "{":
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            members = json.loads(text)
            return [
                (f"{name} > {key}", value)
                for key, value in list(members.items())[:FILES]
                if isinstance(value, str) and len(value) >= SMALLEST and parse(value)[0] is not None
            ]
    return [(name, text)] if parse(text)[0] is not None and not _is_plain(text) else []


def _archive(data: bytes, name: str) -> list[tuple[str, str]]:
    found, total = [], 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist()[:FILES]:
                if entry.filename.endswith(".py"):
                    with archive.open(entry) as member:
                        content = member.read(SCRIPT_BYTES + 1 - total)
                    total += len(content)
                    if total > SCRIPT_BYTES:
                        break
                    found.append((f"{name} > {entry.filename}", content.decode(errors="replace")))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError):
        return found
    return found


def _is_plain(data: str | bytes) -> bool:
    """Whether the text has no call or statement, so that it is a table or a key and not a program."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    tree, _ = parse(text) if len(text) <= 100_000 else (None, "")
    return tree is not None and not any(isinstance(node, ast.Call | ast.Import | ast.FunctionDef | ast.Assign) for node in ast.walk(tree))
