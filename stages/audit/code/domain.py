"""What flow.py follows: values, the functions of a module, and the variables of a function that is entered."""

from stages.audit.code.settings import UNKNOWN
from stages.audit.code.syntax import Node


class Finished(Exception):
    """The budget of steps is used up."""


class Value:
    """Tags, and a constant, a function or the parts of a tuple where they are known."""

    __slots__ = ("constant", "function", "items", "tags")

    def __init__(self, tags=frozenset(), constant=UNKNOWN, function=None, items=None):
        self.tags, self.constant, self.function, self.items = tags, constant, function, items

    def plus(self, tags) -> "Value":
        return self if tags <= self.tags else Value(self.tags | tags, self.constant, self.function, self.items)


NOTHING = Value()


def together(values) -> Value:
    tags = frozenset().union(*(value.tags for value in values))
    return Value(tags) if tags else NOTHING


def is_born(tag) -> bool:
    """Whether a tag says when a loss was computed: ("born", clock)."""
    return isinstance(tag, tuple) and tag[0] == "born"


class Function:
    """A function of the module; `outer` are the variables around it."""

    __slots__ = ("_text", "body", "calls_itself", "dead", "entered", "name", "node", "outer", "parameters")

    def __init__(self, node: Node, outer: dict | None):
        self.node, self.outer, self.entered, self.calls_itself, self.dead = node, outer, False, False, False
        self.name = node.field("name").text if node.field("name") is not None else "lambda"
        self.body, self._text = node.field("body"), None
        self.parameters = []  # (name, default, "", "*" or "**")
        for part in getattr(node.field("parameters"), "children", ()):
            stars = {"list_splat_pattern": "*", "dictionary_splat_pattern": "**"}.get(part.kind, "")
            name = next((inner for inner in part.walk() if inner.kind == "identifier"), None)
            if name is not None and part.kind != "comment":
                self.parameters.append((name.text, part.field("value"), stars))

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = self.node.text
        return self._text


class Frame:
    """Variables of a function that is being followed; `number` counts the calls. `data_is_val`: its unknown names are validation data."""

    def __init__(self, function: Function | None, outer: "Frame | None", data_is_val: bool, number: int):
        self.function, self.outer, self.data_is_val, self.number = function, outer, data_is_val, number
        self.variables: dict[str, Value] = {}
        self.returned: list[Value] = []
        self.fitted: list[tuple[str, Node, str]] = []

    def find(self, name: str) -> Value | None:
        frame: Frame | None = self
        while frame is not None:
            if name in frame.variables:
                return frame.variables[name]
            frame = frame.outer
        return None


def names_of(node: Node | None) -> str:
    """The last word of a name, attribute, subscript or call: x, a.x, x[i] and x() are all `x`."""
    while node is not None and node.kind in ("subscript", "call", "list_splat", "parenthesized_expression"):
        node = node.field("value") or node.field("function") or (node.children[0] if node.children else None)
    if node is not None and node.kind == "attribute":
        node = node.field("attribute")
    return node.text if node is not None and node.kind == "identifier" else ""
