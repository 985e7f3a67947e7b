"""Evaluate the constants of a script, by a table and within a budget.

    value ::= constant | name | value + value | [value, ...] | {value: value} | module.CONSTANT | decoder(value) | value.method()

A name has a value where the scope that binds it assigns it exactly once and it is no parameter there. A decoder is recognised by its
function's name, not by the module's alias. Bounds: BYTES for all values of a module together, STEPS expressions, DEPTH of nesting.
"""

import ast
import lzma
import re
import warnings

from stages.audit.code.decoders import DECODERS, METHODS, REFUSALS, SCRIPT_BYTES, TooMuch
from stages.audit.code.syntax import PLACE, Node

BYTES, STEPS, DEPTH = 8 * SCRIPT_BYTES, 20_000, 40
PLACED = re.compile(PLACE.format(r"(\d+)"))
FUNCTIONS = ("function_definition", "lambda")


class NotAValue(Exception):
    """An expression that is not in the table."""


class Scope:
    """The names that a module or function binds: one expression, or None where a name has several or is a parameter."""

    def __init__(self, outer: "Scope | None" = None):
        self.outer, self.names = outer, {}

    def bind(self, name: str, value: Node | None) -> None:
        self.names[name] = None if name in self.names else value

    def find(self, name: str) -> "tuple[Node, Scope] | None":
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                value = scope.names[name]
                return None if value is None else (value, scope)
            scope = scope.outer
        return None


def scopes(root: Node) -> list[tuple[Node, Scope]]:
    """Each call of a module with its scope, in the order of the source; the scopes are complete."""
    calls: list[tuple[Node, Scope]] = []
    waiting = [(root, Scope())]
    while waiting:
        node, scope = waiting.pop()
        if node.kind == "call":
            calls.append((node, scope))
        elif node.kind == "assignment" and (left := node.field("left")) is not None and left.kind == "identifier":
            scope.bind(left.text, node.field("right"))
        elif node.kind in ("augmented_assignment", "for_statement") and (left := node.field("left")) is not None:
            for part in left.walk():
                if part.kind == "identifier":
                    scope.names[part.text] = None
        if node.kind in FUNCTIONS:
            scope = Scope(scope)
            for parameter in getattr(node.field("parameters"), "children", ()):
                name = next((part for part in parameter.walk() if part.kind == "identifier"), None)
                if name is not None:
                    scope.names[name.text] = None
        waiting += [(child, scope) for child in reversed(node.children)]
    return calls


def called(node: Node) -> str:
    """The last word of the name that a call calls."""
    function = node.field("function")
    if function is not None and function.kind == "attribute":
        function = function.field("attribute")
    return function.text if function is not None and function.kind == "identifier" else ""


def literal(node: Node) -> str | bytes:
    """The value of a string constant. NotAValue for an f-string."""
    if any(child.kind == "interpolation" for child in node.children):
        raise NotAValue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about escapes in the script do not matter here
        try:
            value = ast.literal_eval(node.text)
        except (SyntaxError, ValueError, MemoryError):
            raise NotAValue from None
    if not isinstance(value, str | bytes):
        raise NotAValue
    if node.source.literals:
        is_bytes = isinstance(value, bytes)
        text = value.decode("latin-1") if is_bytes else value
        text = PLACED.sub(lambda found: node.source.literals[int(found[1])], text)
        value = text.encode("latin-1", "replace") if is_bytes else text
    return value


class Reader:
    """Evaluates expressions of one module within one budget."""

    def __init__(self):
        self.bytes_left, self.steps_left = BYTES, STEPS

    def reads(self, node: Node, scope: Scope) -> bool:
        """Whether an executed expression is a value of the table, or compile() of one."""
        if node.kind == "call" and called(node) == "compile" and (inner := arguments(node)[0]):
            node = inner[0]
        try:
            self.value(node, scope)
            return True
        except NotAValue:
            return False
        except ValueError:
            return True  # reading it was tried, and the failure is reported elsewhere

    def value(self, node: Node, scope: Scope, depth: int = 0):
        """The value of an expression. NotAValue if it is not in the table; ValueError if a decoder refuses it or it exceeds a bound."""
        self.steps_left -= 1
        if self.steps_left < 0:
            raise ValueError(f"its constants come to more than {STEPS:,} expressions")
        if depth > DEPTH:
            raise NotAValue
        found = self._value(node, scope, depth + 1)
        if isinstance(found, str | bytes):
            self.bytes_left -= len(found)
        if self.bytes_left < 0:
            raise ValueError(f"its constants come to more than {BYTES:,} bytes")
        return found

    def _value(self, node: Node, scope: Scope, depth: int):
        match node.kind:
            case "string":
                return literal(node)
            case "concatenated_string":
                parts = [self.value(part, scope, depth) for part in node.children]
                return _joined(parts)
            case "integer" if len(node.text) <= 20:
                with_base = node.text.replace("_", "")
                try:
                    return int(with_base, 0)
                except ValueError:
                    raise NotAValue from None
            case "none":
                return None
            case "parenthesized_expression" if len(node.children) == 1:
                return self.value(node.children[0], scope, depth)
            case "identifier" if (found := scope.find(node.text)) is not None:
                return self.value(found[0], found[1], depth)
            case "attribute":
                constant = getattr(node.field("attribute"), "text", "")
                if constant.isupper() and isinstance(getattr(lzma, constant, None), int):
                    return getattr(lzma, constant)
            case "unary_operator" if node.operators == ["-"]:
                inner = self.value(node.children[0], scope, depth)
                if isinstance(inner, int):
                    return -inner
            case "binary_operator" if node.operators in (["+"], ["|"]):
                left, right = (self.value(node.field(side), scope, depth) for side in ("left", "right"))
                if node.operators == ["+"]:
                    return _joined([left, right])
                if isinstance(left, int) and isinstance(right, int):
                    return left | right
            case "list" | "tuple":
                return [self.value(item, scope, depth) for item in node.children]
            case "dictionary" if all(pair.kind == "pair" for pair in node.children):
                pairs = [
                    (self.value(pair.field("key"), scope, depth), self.value(pair.field("value"), scope, depth)) for pair in node.children
                ]
                if all(isinstance(key, str | bytes | int) for key, _ in pairs):
                    return dict(pairs)
            case "call":
                return self._call(node, scope, depth)
        raise NotAValue

    def _call(self, node: Node, scope: Scope, depth: int):
        how = called(node)
        if how not in DECODERS and how not in METHODS:
            raise NotAValue
        positional, named = arguments(node)
        values = [self.value(argument, scope, depth) for argument in positional]
        keywords = {name: self.value(argument, scope, depth) for name, argument in named.items()}
        try:
            if how in DECODERS and values and isinstance(values[0], str | bytes):
                return DECODERS[how](*values, **keywords)
            function = node.field("function")
            if how in METHODS and function.kind == "attribute":
                owner = self.value(function.field("object"), scope, depth)
                kind, method = METHODS[how]
                if isinstance(owner, kind):
                    return method(owner, *values, **keywords)
        except TooMuch as error:
            raise ValueError(str(error)) from None
        except REFUSALS as error:
            raise ValueError(f"{how} refuses its data ({type(error).__name__}: {str(error)[:100]})") from None
        raise NotAValue


def arguments(node: Node) -> tuple[list[Node], dict[str, Node]]:
    """Positional and named arguments of a call. NotAValue if one of them is unpacked."""
    positional, named = [], {}
    given = node.field("arguments")
    for argument in given.children if given is not None and given.kind == "argument_list" else ():
        if argument.kind == "keyword_argument":
            named[argument.field("name").text] = argument.field("value")
        elif argument.kind in ("list_splat", "dictionary_splat"):
            raise NotAValue
        elif argument.kind != "comment":
            positional.append(argument)
    return positional, named


def _joined(parts: list):
    if parts and all(isinstance(part, str) for part in parts):
        return "".join(parts)
    if parts and all(isinstance(part, bytes) for part in parts):
        return b"".join(parts)
    raise NotAValue
