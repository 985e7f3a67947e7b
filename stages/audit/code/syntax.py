"""Syntax trees of Python, C, C++, CUDA and shell, by tree-sitter: the same trees whatever Python runs this, bounded in memory.

A tree is a tree of `Node`: named nodes of the grammar, with their fields and the operators that a field names. tree-sitter recovers from
errors, so a file with a mistake is read except for the mistake. Bounds: CHARACTERS and WORDS for a source, NODES for a tree. A source
above one of them gives no tree and a sentence.
"""

import bisect
import functools
import re
from collections.abc import Iterator

CHARACTERS, WORDS, NODES = 600_000, 120_000, 200_000
DEPTH = 200  # nesting that can be walked without reaching Python's own limit; deeper parts of a tree are left out
LANGUAGES = {
    ".py": "python",
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh"), "cuda"),
    **dict.fromkeys((".sh", ".bash"), "bash"),
}
LITERAL = re.compile(r"(?<=['\"])[^'\"\\\n]{4096,}(?=['\"])")
PLACE = "<literal {}>"
PLAIN = frozenset(("module", "block", "argument_list", "list", "tuple", "pattern_list", "expression_list", "translation_unit"))  # no fields
WITH_OPERATORS = frozenset(
    [
        "binary_operator",
        "augmented_assignment",
        "boolean_operator",
        "comparison_operator",
        "unary_operator",
        "binary_expression",
        "assignment_expression",
        "update_expression",
        "unary_expression",
    ]
)


class Source:
    """The bytes of a source, the line of each offset, and the large literals that were put aside (`PLACE` stands for each). `deep` is the
    first line at which parts were left out because they are nested too deeply, or 0; `size` is the number of words and signs."""

    def __init__(self, data: bytes, literals: list[str]):
        self.data, self.literals, self.deep, self.size = data, literals, 0, 0
        self.starts = [0, *(found.end() for found in re.finditer(rb"\n", data))]

    def line(self, offset: int) -> int:
        return bisect.bisect_right(self.starts, offset)


class Node:
    """A node of the tree: `kind` as in the grammar, named children, children by field, operators, byte offsets, line from 1."""

    __slots__ = ("children", "end", "fields", "kind", "operators", "source", "start")

    def __init__(self, kind: str, start: int, end: int, source: "Source"):
        self.kind, self.start, self.end, self.source = kind, start, end, source
        self.children: list[Node] = []
        self.fields: dict[str, Node] = {}
        self.operators: list[str] = []

    @property
    def text(self) -> str:
        return self.source.data[self.start : self.end].decode(errors="replace")

    @property
    def line(self) -> int:
        return self.source.line(self.start)

    def field(self, name: str) -> "Node | None":
        return self.fields.get(name)

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, in the order of the source."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)


@functools.lru_cache(maxsize=8)
def _parser(language: str):
    import tree_sitter

    if language == "python":
        import tree_sitter_python as grammar
    elif language == "bash":
        import tree_sitter_bash as grammar
    else:  # the grammar of CUDA holds those of C and C++
        import tree_sitter_cuda as grammar
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def parse(text: str, language: str = "python") -> tuple[Node | None, str]:
    """(tree, "") of a source, or (None, why there is none)."""
    literals: list[str] = []
    if _dense(text):  # a large literal is one word of the tree, whatever its size

        def put_aside(found: re.Match) -> str:
            literals.append(found[0])
            return PLACE.format(len(literals) - 1)

        text = LITERAL.sub(put_aside, text)
    if _dense(text):
        return None, f"more than {CHARACTERS:,} characters or {WORDS:,} words of code"
    data = text.encode(errors="replace")
    tree = _parser(language).parse(data)
    root, why = _built(tree, Source(data, literals))
    if root is not None and not any(child.kind != "ERROR" for child in root.children) and tree.root_node.has_error:
        return None, "nothing in it can be parsed"
    return root, why


def _dense(text: str) -> bool:
    return len(text) > CHARACTERS or (len(text) > WORDS and sum(1 for _ in re.finditer(r"\w+", text)) > WORDS)


def broken(root: Node) -> int | None:
    """The line of the first part that is no valid source, or None."""
    return next((node.line for node in root.walk() if node.kind == "ERROR"), None)


def _built(tree, source: Source) -> tuple[Node | None, str]:
    """The nodes of a tree-sitter tree. Of what has no name, only operators are kept."""
    cursor, left = tree.walk(), NODES
    found = cursor.node
    root = Node(found.type, found.start_byte, found.end_byte, source)
    stack: list[Node | None] = [root]  # from the root to the node under the cursor; None for what is left out
    down, further, up = cursor.goto_first_child, cursor.goto_next_sibling, cursor.goto_parent
    while True:
        if stack[-1] is not None and len(stack) < DEPTH and down():
            pass
        else:
            if len(stack) == DEPTH and stack[-1] is not None and cursor.node.child_count and not source.deep:
                source.deep = stack[-1].line
            while True:
                stack.pop()
                if not stack:
                    return root, ""
                if further():
                    break
                up()
        found, parent = cursor.node, stack[-1]
        if found.is_named:
            node = Node(found.type, found.start_byte, found.end_byte, source)
            parent.children.append(node)
            if parent.kind not in PLAIN and (name := cursor.field_name):
                parent.fields.setdefault(name, node)
            stack.append(node)
        else:
            if parent.kind in WITH_OPERATORS:
                parent.operators.append(found.type)
            stack.append(None)
        left -= 1
        source.size += 1
        if left < 0:
            return None, f"more than {NODES:,} words and signs"
