"""Find the source inside a self-extracting script, without executing it.

A packed script is `exec(decompress(b85decode("...")))` in some spelling. The script is parsed, never run; values.py evaluates its
constants. If the result is source again, it is the next layer. Source files in an archive or in a JSON object are layers too. Bounds:
SCRIPT_BYTES for each text, TOTAL for all texts of a script, LAYERS deep, FILES in an archive. Nothing here raises on bad input: what cannot
be read is a sentence.
"""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from stages.audit.code.decoders import DECODERS, METHODS, SCRIPT_BYTES
from stages.audit.code.syntax import LANGUAGES, NODES, Node, broken, parse
from stages.audit.code.values import NotAValue, Reader, arguments, called, scopes

LAYERS, FILES, TOTAL = 6, 500, 2 * SCRIPT_BYTES
JSON_BYTES = 4_000_000  # a JSON text can take 25 times its size in memory
SMALLEST = 64  # characters; a shorter constant is not a packed script
PROGRAM = frozenset(("call", "import_statement", "import_from_statement", "function_definition", "assignment"))


@dataclass(frozen=True)
class Layer:
    """A piece of source code; `name` says how it was reached (`train_gpt.py > lzma`), `language` is a grammar of syntax.py."""

    name: str
    source: str
    tree: Node
    language: str = "python"


def archive(name: str, data: bytes) -> tuple[list[Layer], list[str]]:
    """The sources of an archive of the folder (.zip, .pyz, .whl), and one sentence for each part that could not be read."""
    found, unread = [], []
    sources, sentence = _archive(data, name)
    for inner, text, language in sources:
        more, missed = layers(inner, text, language)
        found += more
        unread += missed
        if sum(layer.tree.source.size for layer in found) > 2 * NODES:
            unread.append(f"{name} has more than {2 * NODES:,} words and signs; the rest was not read")
            break
    return found, unread + ([f"{name}: {sentence}"] if sentence else [])


def language_of(name: str) -> str | None:
    return LANGUAGES.get(PurePosixPath(name).suffix.lower())


def layers(name: str, text: str, language: str = "python") -> tuple[list[Layer], list[str]]:
    """The script and all layers that it unpacks, outermost first; and one sentence for each part that could not be read."""
    found, unread, left, nodes = [], [], TOTAL, 2 * NODES
    queue = [(name, text, 0, language)]
    while queue:
        name, text, depth, language = queue.pop(0)
        left -= len(text)
        if left < 0 or len(found) > FILES:
            unread.append(f"{name} unpacks to more than {TOTAL:,} characters or {FILES} files; the rest was not read")
            break
        tree, why = parse(text, language) if nodes > 0 else (None, f"the layers before it have more than {2 * NODES:,} words and signs")
        if tree is None:
            unread.append(f"{name} is no {language.title()} that can be read ({why})")
            continue
        nodes -= tree.source.size
        if (line := broken(tree)) is not None:
            unread.append(f"{name} is no valid {language.title()} at line {line}; the rest was read")
        if tree.source.deep:
            unread.append(f"{name} is nested too deeply at line {tree.source.deep}; what is inside was not read")
        found.append(Layer(name, text, tree, language))
        if language != "python":
            continue
        inner, missed = _contents(tree, name)
        unread += missed
        if inner and depth == LAYERS:
            unread.append(f"{name} unpacks further than {LAYERS} layers")
            continue
        queue += [(inner_name, source, depth + 1, kind) for inner_name, source, kind in inner]
    return found, unread


def _contents(tree: Node, name: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Sources that a module unpacks, and one sentence for each thing that it executes and that could not be read."""
    reader, found, missed, done = Reader(), [], [], 0
    for node, scope in scopes(tree):
        if node.start < done:
            continue  # a part of a call that was evaluated
        how = called(node)
        if how in DECODERS or how in METHODS:
            try:
                data = reader.value(node, scope)
            except NotAValue:
                continue
            except ValueError as error:
                missed.append(f"{name}, line {node.line}: {error}")
                data = None
            done = node.end
            if data is None:
                continue
            sources, sentence = _sources(data, f"{name} > {how}")
            found += sources
            if sentence:
                missed.append(f"{name}, line {node.line}: {sentence}")
            elif not sources and len(data) >= SMALLEST and not _is_plain(data):
                missed.append(f"{name}, line {node.line}: {how} gives {len(data):,} bytes that are no source code")
        elif how in ("exec", "eval") and node.field("function").kind == "identifier":
            try:
                given = arguments(node)[0]
            except NotAValue:
                given = []
            if given and not reader.reads(given[0], scope):
                missed.append(f"{name}, line {node.line}: {how} runs what is put together at run time")
    return found, missed


def _sources(data, name: str) -> tuple[list[tuple[str, str, str]], str]:
    """The sources in unpacked data, and why there are none. The data is a source, an archive, or a JSON object of texts."""
    if isinstance(data, bytes) and data[:2] == b"PK":
        return _archive(data, name)
    text = data
    if isinstance(data, bytes):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return [], ""
    if not isinstance(text, str) or len(text) < SMALLEST:
        return [], ""
    if text.lstrip()[:1] == "{":
        if len(text) > JSON_BYTES:
            return [], f"a JSON text of {len(text):,} characters is too large to be read"
        try:
            members = json.loads(text, parse_int=float)
            return [
                (f"{name} > {key}", value, language_of(key) or "python")
                for key, value in list(members.items())[:FILES]
                if isinstance(value, str) and len(value) >= SMALLEST and (language_of(key) or _is_program(value))
            ], ""
        except (ValueError, RecursionError, AttributeError, MemoryError):
            pass  # not JSON: perhaps a program that begins with a brace
    return ([(name, text, "python")] if _is_program(text) else []), ""


def _archive(data: bytes, name: str) -> tuple[list[tuple[str, str, str]], str]:
    found, total = [], 0
    if data.count(b"PK\x01\x02") > FILES:
        return [], f"an archive of more than {FILES} files"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if language := language_of(entry.filename):
                    with archive.open(entry) as member:
                        content = member.read(SCRIPT_BYTES + 1 - total)
                    total += len(content)
                    if total > SCRIPT_BYTES:
                        return found, f"an archive that unpacks to more than {SCRIPT_BYTES:,} bytes"
                    found.append((f"{name} > {entry.filename}", content.decode(errors="replace"), language))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        return found, f"an archive that cannot be read ({type(error).__name__})"
    return found, ""


def _is_program(text: str) -> bool:
    tree, _ = parse(text)
    return tree is not None and any(node.kind in PROGRAM for node in tree.walk()) and broken_share(tree) < 0.5


def broken_share(tree: Node) -> float:
    """The share of a source that is no valid syntax."""
    wrong = sum(node.end - node.start for node in tree.walk() if node.kind == "ERROR" and node is not tree)
    return wrong / max(1, tree.end - tree.start)


def _is_plain(data: str | bytes) -> bool:
    """Whether the text has no call or statement, so that it is a table or a key and not a program."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    tree, _ = parse(text) if len(text) <= 100_000 else (None, "")
    return tree is not None and broken(tree) is None and not any(node.kind in PROGRAM for node in tree.walk())
