"""The switches of a script: their defaults in its code, what the launch line sets, and what the logs print. Logs go before launch lines.

A switch that is off makes a branch dead. Values are numbers, truth values or short texts, as far as constants tell.
"""

import re

from stages.audit.code.syntax import Node

ASSIGNED = re.compile(r"(?<![\w$])([A-Z][A-Z0-9_]{2,60})=(\"[^\"\n]{0,80}\"|'[^'\n]{0,80}'|[^\s\"'\\;|&]{1,80})")
UNKNOWN = object()


def of_launch_lines(text: str) -> dict[str, str]:
    """NAME=value pairs of a shell text or of a README's commands; the last one counts."""
    return {name: value.strip("\"'") for name, value in ASSIGNED.findall(text)}


def truth(value) -> bool | None:
    """Whether a constant is true, as a script's `bool(int(...))` reads it; None for what is not known."""
    if isinstance(value, str):
        lower = value.strip().lower()
        if lower in ("", "0", "false", "no", "off", "none", "0.0"):
            return False
        return True if lower in ("1", "true", "yes", "on") else None
    if value is UNKNOWN:
        return None
    return bool(value) if isinstance(value, bool | int | float) or value is None else None


def number(value):
    """A constant as int(), float() or bool() read it, else UNKNOWN."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value[:40])
            except (ValueError, OverflowError):
                continue
        if value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
    return UNKNOWN


class Settings:
    """Values by name. `launched` are environment variables, `logged` are printed names in lower case."""

    def __init__(self, launched: dict[str, str] | None = None, logged: dict[str, str] | None = None):
        self.launched, self.logged = launched or {}, logged or {}
        self.defaults: dict[str, object] = {}
        self.unset: dict[str, object] = {}  # the same, as the script has them without a launch line

    def attribute(self, name: str):
        """The value of `h.name` or `args.name`."""
        logged = self.logged.get(name.lower(), UNKNOWN)
        return logged if logged is not UNKNOWN else self.defaults.get(name, UNKNOWN)

    def learn(self, root: Node, constant) -> None:
        """Take the defaults from the class bodies and the module level. `constant` evaluates an expression node to a value or UNKNOWN."""
        for node in root.children:
            bodies = [node]
            if node.kind in ("class_definition", "decorated_definition"):
                definition = node if node.kind == "class_definition" else node.field("definition")
                if definition is None or definition.kind != "class_definition" or definition.field("body") is None:
                    continue
                bodies = definition.field("body").children
            for statement in bodies:
                inner = statement.children[0] if statement.kind == "expression_statement" and statement.children else None
                if inner is None or inner.kind != "assignment" or inner.field("right") is None:
                    continue
                left = inner.field("left")
                if left is not None and left.kind == "identifier":
                    launched, self.launched = self.launched, {}
                    self.unset[left.text.lower()] = constant(inner.field("right"))
                    self.launched = launched
                    value = constant(inner.field("right"))
                    if value is not UNKNOWN:
                        self.defaults[left.text] = value if left.text not in self.defaults else UNKNOWN
