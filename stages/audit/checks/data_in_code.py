"""T19: the programs and options of the artifact hold no data whose origin nobody can see.

Every Python file of the artifact is parsed, and so are the options of the run. What counts is data as opposed to prose and programs: byte
strings, strings of 64 characters or more without a blank, whole numbers of more than 64 bits, and displays of 32 numbers or more. Weights
have a lineage; such data has none, so more than 256 bytes of it leave the score not ruled. What was fitted on val in fewer bytes, or is
spelled as something else, shows only statistically (memorization).
"""

import ast
import json
import zipfile

from stages.audit.evidence import Evidence, Verdict
from stages.audit.submission import unpack

PROVES = "Against honest mistakes: the programs and options hold no more than 256 bytes of data beside what makes them programs."
CANNOT_SEE = "Data that is spelled as prose, as names or as a program that computes it; what was fitted on val in fewer bytes."
PRECEDENT = "none; lineage (#1972, 2 May 2026) is asked of weights, and data in code are weights by another name"
MOST_BYTES = 256
LONG_WORD, LARGE_NUMBER, MANY_NUMBERS = 64, 64, 32


def check(evidence: Evidence) -> Verdict:
    found = {"options": of_values(evidence.options)}
    with zipfile.ZipFile(evidence.submission) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                try:
                    with unpack.PARSING:
                        tree = ast.parse(archive.read(name))
                    found[name] = sum(map(size, ast.walk(tree)))
                except (SyntaxError, ValueError, RecursionError, MemoryError):
                    found[name] = archive.getinfo(name).file_size
    found = {name: number for name, number in found.items() if number}
    total = sum(found.values())
    facts = {"bytes": total, "allowed": MOST_BYTES, "where": found}
    if total > MOST_BYTES:
        facts["reason"] = f"{max(found, key=found.get)} holds {max(found.values()):,} bytes of data whose origin no lineage shows"
    return Verdict("not_applicable" if total > MOST_BYTES else "pass", facts, positions=len(found), largest_deviation=float(total))


def size(node: ast.AST) -> int:
    """Bytes of data in one node of a program, without the nodes below it, except numbers of a display."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
        parts = node.values if isinstance(node, ast.Dict) else node.elts
        numbers = [part for part in parts if isinstance(part, ast.Constant | ast.UnaryOp)]
        return sum(len(ast.unparse(part)) for part in numbers) if len(numbers) >= MANY_NUMBERS else 0
    return of_value(node.value) if isinstance(node, ast.Constant) else 0


def of_value(value) -> int:
    """Bytes of data in one constant."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return sum(len(word.encode(errors="replace")) for word in value.split() if len(word) >= LONG_WORD)
    return value.bit_length() // 8 if isinstance(value, int) and value.bit_length() > LARGE_NUMBER else 0


def of_values(value) -> int:
    """Bytes of data in options: those of their constants, and long lists as a whole."""
    if isinstance(value, dict):
        return sum(map(of_values, value.values()))
    if isinstance(value, list):
        return len(json.dumps(value)) if len(value) >= MANY_NUMBERS else sum(map(of_values, value))
    return of_value(value)
