"""T18: the programs and options of the artifact hold no data whose origin nobody can see.

Weights have a lineage; other data has none, so more than 256 bytes of it leave the score not ruled. What counts:

    in the file       bytes that belong to no program, blob, tokenizer or manifest: other entries, a prefix, comments, gaps
    as tokenizer      all of it, unless `vocabulary` trained it on the train documents, or it is a published one
    in the programs   byte strings, strings of 64 characters or more without a blank, whole numbers of more than 64 bits, displays and calls
                      of 32 numbers or names or more, statements of more than 1,500 characters
    as prose          the different strings, numbers and names of all programs, compressed, beyond 12,288 bytes; all programs beyond 45,056
    in the options    the same as in the programs, and all of them if they have more than 1,024 characters

The default has 10,200 bytes of prose and 43,700 of programs; an artifact that packs every plug-in at once has 12,400 and 57,800, and is
not ruled. So what was fitted on val and is spelled as prose has a few thousand bytes at most, and can gain eight bits for each; the
evidence says how much that is per byte of text. That shows only statistically (memorization).
"""

import ast
import json
import lzma
import threading
import zipfile
import zlib

from stages.audit import graph
from stages.audit.evidence import Evidence, Verdict, is_built_elsewhere
from stages.lib.referee import archive

PROVES = (
    "Against honest mistakes: the programs and options hold no more than 256 bytes of data beside what makes them programs; the tokenizer "
    "was trained on the train documents, or is a published one."
)
CANNOT_SEE = "A few thousand bytes that were fitted on val and are spelled as prose, as names or as a program that computes them."
PRECEDENT = "none; lineage (#1972, 2 May 2026) is asked of weights, and data in code are weights by another name"
PARSER = threading.Lock()  # Python 3.11 counts the depth of all threads' trees together, and fails if they mix (gh-106905)
MOST_BYTES = 256
PIECE = 1 << 20  # at a time
LONG_WORD, LARGE_NUMBER, MANY, LONG_STATEMENT, LONG_OPTIONS, LONG_MANIFEST = 64, 64, 32, 1_500, 1_024, 4_096
PROSE_BYTES, PROGRAM_BYTES = 12_288, 45_056
TOKENIZER = "caddie/data/tokenizer.model"
KNOWN = ("caddie/data/memory.bin", "caddie/data/model.blob", TOKENIZER, "caddie/data/manifest.json")
SIMPLE = (
    ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Return | ast.Assert | ast.Raise | ast.Delete | ast.Global | ast.Nonlocal
)


def check(evidence: Evidence) -> Verdict:
    if is_built_elsewhere(evidence):
        reason = "built elsewhere: nobody here can tell which of its bytes are weights, and which are data that were fitted on val"
        return Verdict("not_applicable", {"bytes": evidence.submission.num_bytes(), "reason": reason})
    options = json.dumps(evidence.options)
    found, sources, prose = {"options": len(options) if len(options) > LONG_OPTIONS else of_values(evidence.options)}, [], set()
    with archive.opened(evidence.submission) as file:
        found["no entry"] = unexplained(file, evidence.submission.stat().st_size)
        for entry, content in archive.contents(file):
            name = entry.filename
            if name == "caddie/data/manifest.json":
                packed = archive.manifest(evidence.submission, content)
                found[name] = max(0, len(content) - LONG_MANIFEST) + sum(of_values(packed.get(key)) for key in ("options", "other_options"))
            elif not name.endswith(".py"):
                is_read = name in KNOWN and file.getinfo(name) is entry  # the last of those that have its name
                is_read = is_read and (name != TOKENIZER or graph.tokenizer_origin(evidence.lock, content))
                found[name] = found.get(name, 0) + (0 if is_read else len(content) + len(name))
            else:
                try:
                    with PARSER:
                        nodes = list(ast.walk(ast.parse(content)))
                    found[name] = found.get(name, 0) + sum(map(size, nodes))
                except (SyntaxError, ValueError, RecursionError, MemoryError):  # nobody can read it
                    found[name] = found.get(name, 0) + len(content)
                    continue
                sources.append(content)
                prose |= {word for node in nodes for word in words(node)}
    sizes = {
        "prose": len(lzma.compress("\n".join(sorted(prose)).encode(errors="replace"))),
        "programs": len(lzma.compress(b"\n".join(sources))),
    }
    found |= {"prose": max(0, sizes["prose"] - PROSE_BYTES), "programs": max(0, sizes["programs"] - PROGRAM_BYTES)}
    found = {name: number for name, number in found.items() if number}
    total = sum(found.values())
    held = 8 * (sizes["prose"] + MOST_BYTES) / evidence.metrics["bytes"]
    facts = {"bytes": total, "allowed": MOST_BYTES, "where": found, "compressed": sizes, "may_hold_bits_per_byte": held}
    if total > MOST_BYTES:
        facts["reason"] = f"{max(found, key=found.get)} holds {max(found.values()):,} bytes of data whose origin no lineage shows"
        if TOKENIZER in found:
            facts["reason"] += "; a tokenizer may hold text of val: take vocabulary.source bpe, or one that is published"
    return Verdict("not_applicable" if total > MOST_BYTES else "pass", facts, positions=len(found), largest_deviation=float(total))


def unexplained(file: zipfile.ZipFile, num_bytes: int) -> int:
    """Bytes of the file that no entry's content, name or header accounts for; the entries must follow one another without a gap."""
    place = count = directory = 0
    for entry in sorted(file.infolist(), key=lambda entry: entry.header_offset):
        length = len(entry.filename.encode())
        count += abs(entry.header_offset - place) + _unread(file, entry)
        place = entry.header_offset + 30 + length + entry.compress_size
        directory += 46 + length
    return count + abs(num_bytes - 22 - directory - place)


def _unread(file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Bytes of an entry that come after the end of what is compressed in it."""
    if entry.compress_type != zipfile.ZIP_DEFLATED:
        return 0 if entry.compress_type == zipfile.ZIP_STORED else entry.compress_size
    file.fp.seek(entry.header_offset + 30 + len(entry.filename.encode()))
    stream, left, rest = zlib.decompressobj(-15), entry.file_size, file.fp.read(entry.compress_size)
    try:
        while not stream.eof and left >= 0 and (part := stream.decompress(rest, PIECE)):
            left, rest = left - len(part), stream.unconsumed_tail
    except zlib.error:  # something else stands before it
        return entry.compress_size
    return len(stream.unused_data) if left >= 0 else entry.compress_size  # more than it says: nothing reads the rest


def size(node: ast.AST) -> int:
    """Bytes of data in one node of a program, without the nodes below it, except those of long displays, calls and statements."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict | ast.Call):
        parts = node.values if isinstance(node, ast.Dict) else node.args if isinstance(node, ast.Call) else node.elts
        simple = [part for part in parts if isinstance(part, ast.Constant | ast.UnaryOp | ast.Name)]
        return sum(len(ast.unparse(part)) for part in simple) if len(simple) >= MANY else 0
    if isinstance(node, SIMPLE):
        length = len(ast.unparse(node))
        return length if length > LONG_STATEMENT else 0
    return of_value(node.value) if isinstance(node, ast.Constant) else 0


def words(node: ast.AST) -> list[str]:
    """The strings, numbers and names that stand in one node."""
    if isinstance(node, ast.Constant):
        return [node.value if isinstance(node.value, str) else repr(node.value)]
    return [name for field in ("id", "attr", "name", "arg") if isinstance(name := getattr(node, field, None), str)]


def of_value(value) -> int:
    """Bytes of data in one constant."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return sum(len(word.encode(errors="replace")) for word in value.split() if len(word) >= LONG_WORD)
    return value.bit_length() // 8 if isinstance(value, int) and value.bit_length() > LARGE_NUMBER else 0


def of_values(value) -> int:
    """Bytes of data in options: those of their constants and names, and long lists as a whole."""
    if isinstance(value, dict):
        return sum(map(of_value, value)) + sum(map(of_values, value.values()))
    if isinstance(value, list):
        return len(json.dumps(value)) if len(value) >= MANY else sum(map(of_values, value))
    return of_value(value)
