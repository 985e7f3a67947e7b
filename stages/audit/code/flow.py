"""Follow values through a module in the order of execution, without executing it.

Each value is a set of tags (names.py), and a constant or a function where that is known. Functions of the module are entered where they are
called; what nobody calls is entered with what its parameter names say. A branch whose condition is known to be false is not entered. A loop
is gone through once. The result is the trace (trace.py) and the expressions that are wrong by themselves (expressions.py). STEPS bounds
the work; what remains then is not followed, and `unfinished` says so.
"""

import re
import sys

from stages.audit.code import names, settings
from stages.audit.code.bindings import KEPT_BY_NAME, Bindings
from stages.audit.code.domain import NOTHING, Finished, Frame, Function, Value, is_born, together
from stages.audit.code.names import RANDOM, TRAIN, VAL
from stages.audit.code.settings import UNKNOWN
from stages.audit.code.syntax import Node
from stages.audit.code.trace import Branches, Call, Loop

STEPS, CALLS = 120_000, 12
DEEP = 8_000  # Python calls inside each other: a tree of 200 levels, in some functions that call each other
EPOCHS = re.compile(r"epoch|(^|_)eps?(_|$)|pass(es)?(_|$)|repeat|rounds?(_|$)|^_+$|n?iters?$|steps?$", re.IGNORECASE)
DEFINITIONS = ("function_definition", "class_definition", "decorated_definition")
SKIPPED = frozenset(("comment", "import_statement", "import_from_statement", "pass_statement", "break_statement", "continue_statement"))


class Flow(Bindings):
    """Follows one module. `trace` are the events of the module's own level, `entries` those of functions that nobody calls."""

    def __init__(self, root: Node, known: settings.Settings):
        super().__init__()
        self.root, self.settings = root, known
        self.steps, self.unfinished, self.loops, self.number, self.depth = STEPS, False, [], 0, 0
        self.clock = 0
        self.starts: list[int] = []  # where the loops around begin
        self.names_of_functions: dict[str, Function] = {}
        self.methods: dict[str, list[Function]] = {}
        self.trace: list = []
        self.entries: list[tuple[Function, list]] = []
        self.remembered: dict[tuple, tuple[Value, list]] = {}
        self.items = self.trace
        self.frame = self.top = Frame(None, None, False, 0)
        self.entered = 0
        known.learn(root, lambda node: self.constant(node))

    def run(self) -> "Flow":
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(before, DEEP))
        try:
            self._run()
        finally:
            sys.setrecursionlimit(before)
        return self

    def _run(self) -> None:
        self._define(self.root.children, self.top)
        try:
            self.block(self.root.children)
        except (Finished, RecursionError):
            self.unfinished = True
        everything = [*self.names_of_functions.values(), *(method for found in self.methods.values() for method in found)]
        is_program = any(function.entered for function in self.names_of_functions.values())
        used = self._used(everything) if is_program else {id(function) for function in everything}
        for function in everything:
            if function.entered or function.dead or id(function) not in used:
                continue  # followed where it is called; or never executed
            self.frame, self.loops, self.starts, self.depth, items = self.top, [], [], 0, []
            self.items, self.steps = items, max(self.steps, STEPS // 20)
            self.entries.append((function, items))
            try:
                self.enter(function, None)
            except (Finished, RecursionError):
                self.unfinished = True

    def _used(self, everything: list[Function]) -> set[int]:
        """Functions that a program may execute: those that were entered, and all whose names stand in one that may be executed."""
        by_name: dict[str, list[Function]] = {}
        for function in everything:
            by_name.setdefault(function.name, []).append(function)
        used = {id(function): function for function in everything if function.entered and not function.dead}
        waiting = [*(function.node for function in used.values()), *(part for part in self.root.children if part.kind not in DEFINITIONS)]
        while waiting:
            for part in waiting.pop().walk():
                for function in by_name.get(part.text, ()) if part.kind == "identifier" else ():
                    if id(function) not in used and not function.dead:
                        used[id(function)] = function
                        waiting.append(function.node)
        return set(used)

    def _define(self, nodes, frame: Frame) -> None:
        """Make the functions of a block known before they are defined, because a call may stand above the definition."""
        for node in nodes:
            if node.kind == "decorated_definition" and node.field("definition") is not None:
                node = node.field("definition")
            if node.kind == "function_definition" and node.field("name") is not None and node.field("body") is not None:
                function = Function(node, None)
                self.names_of_functions.setdefault(function.name, function)
                frame.variables[function.name] = Value(function=function)
            elif node.kind == "class_definition" and node.field("body") is not None:
                for part in node.field("body").children:
                    inner = part.field("definition") if part.kind == "decorated_definition" else part
                    if inner is not None and inner.kind == "function_definition" and inner.field("body") is not None:
                        method = Function(inner, None)
                        self.methods.setdefault(method.name, []).append(method)
            elif node.kind in ("if_statement", "try_statement", "with_statement"):
                for part in node.children:
                    self._define(part.children if part.kind in ("block", "else_clause", "except_clause", "finally_clause") else (), frame)

    # Statements

    def block(self, nodes) -> None:
        for node in nodes:
            if node.kind not in SKIPPED:
                self.statement(node)

    def statement(self, node: Node) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Finished
        match node.kind:
            case "expression_statement":
                for part in node.children:
                    self.statement(part) if part.kind in ("assignment", "augmented_assignment") else self.value(part)
            case "assignment" if node.field("right") is not None:
                right = node.field("right")
                if right.kind == "assignment":  # a = b = value
                    self.statement(right)
                    right = right.field("left")
                self.assign(node.field("left"), self.value(right), node)
            case "augmented_assignment":
                self.augment(node)
            case "if_statement":
                self.branch(node)
            case "for_statement":
                self.iterate(node, node.field("left"), node.field("right"))
            case "while_statement":
                if settings.truth(self.constant(node.field("condition"))) is not False:
                    self.value(node.field("condition"))
                    self.iterate(node, None, None)
            case "with_statement":
                for part in node.children:
                    if part.kind == "block":
                        self.block(part.children)
                    else:
                        for inner in part.children:
                            self.value(inner.children[0] if inner.children else inner)
            case (
                "try_statement"
                | "finally_clause"
                | "except_clause"
                | "else_clause"
                | "block"
                | "module"
                | "match_statement"
                | "case_clause"
            ):
                self.block(node.children)
            case "function_definition":
                if node.field("name") is not None and node.field("body") is not None:
                    known = self.names_of_functions.get(node.field("name").text)
                    if known is None or known.node is not node:
                        known = Function(node, None)
                        known.entered = True  # where it is called; a closure has no entry of its own
                        known.outer = self.frame
                    self.frame.variables[known.name] = Value(function=known)
            case "decorated_definition":
                if node.field("definition") is not None:
                    self.statement(node.field("definition"))
            case "return_statement":
                values = [self.value(part) for part in node.children]
                self.frame.returned += values
            case "class_definition" | "ERROR" if self.frame is not self.top or node.kind == "ERROR":
                self.block(node.children)
            case "class_definition" | "delete_statement" | "global_statement" | "nonlocal_statement":
                pass
            case _:
                for part in node.children:
                    self.value(part)

    def branch(self, node: Node) -> None:
        """Follow the branches that may be executed, each from the same variables; afterwards a variable has the tags of all of them."""
        conditions = [(node.field("condition"), node.field("consequence"))]
        last = None
        for part in node.children:
            if part.kind == "elif_clause":
                conditions.append((part.field("condition"), part.field("consequence")))
            elif part.kind == "else_clause":
                last = part
        bodies = []
        for condition, body in conditions:
            known = settings.truth(self.constant(condition))
            if known is False or body is None:
                self.leave_out(body)
                continue
            self.check_condition(condition, self.value(condition), body)
            bodies.append(body)
            if known is True:
                for _, other in conditions[conditions.index((condition, body)) + 1 :]:
                    self.leave_out(other)
                self.leave_out(last)
                last = None
                break
        else:
            bodies.append(last)
        before, variables, parts, after, clock = self.items, self.frame.variables, [], [], self.clock + 1
        for body in bodies:
            self.items, self.frame.variables = [], dict(variables)
            if body is not None:
                self.block(body.children)
            parts.append(self.items)
            after.append(self.frame.variables)
        self.items, self.frame.variables = before, variables
        if any(parts):
            before.append(Branches(parts, clock))
        for name in {name for found in after for name in found if found[name] is not variables.get(name)}:
            values = [found[name] for found in after if name in found]
            variables[name] = values[0] if len(values) == 1 or all(value is values[0] for value in values) else together(values)

    def leave_out(self, body: Node | None) -> None:
        """A branch that is never executed: functions that only it calls are not executed either."""
        waiting = [body] if body is not None else []
        while waiting:
            for part in waiting.pop().walk():
                if part.kind == "identifier" and (known := self.names_of_functions.get(part.text)) and not known.entered and not known.dead:
                    known.dead = True
                    waiting += [known.body] if known.body is not None else []

    def iterate(self, node: Node, target: Node | None, over: Node | None) -> None:
        self.number += 1
        number, mark = self.number, ("loop", self.number)
        epochs = False
        if over is not None:
            value = self.value(over)
            text = f"{target.text} {over.text}" if len(over.text) < 300 else target.text
            epochs = VAL not in value.tags and any(EPOCHS.search(word) for word in re.findall(r"\w+", text))
            if epochs and over.kind == "call" and self.constant_of_range(over) in (0, 1):
                epochs = False
            each = value.items[0].plus(frozenset().union(*(item.tags for item in value.items))) if value.items else Value(value.tags)
            self.assign(target, Value(each.tags | {mark}, UNKNOWN, each.function), node)
        body = node.field("body")
        for part in body.walk() if body is not None else ():  # what a loop changes is no constant in it
            if part.kind in ("assignment", "augmented_assignment", "named_expression"):
                left = part.field("left") or part.field("name")
                if left is not None and left.kind == "identifier" and (known := self.frame.variables.get(left.text)) is not None:
                    self.frame.variables[left.text] = Value(known.tags, function=known.function)
        loop = Loop(number, epochs, self.clock + 1)
        outside, self.items = self.items, loop.items
        self.loops.append((number, epochs))
        self.starts.append(node.start)
        try:
            self.block(body.children if body is not None else ())
        finally:
            self.loops.pop()
            self.starts.pop()
            self.items = outside
            if loop.items:
                outside.append(loop)

    def constant_of_range(self, node: Node):
        given = node.field("arguments")
        return self.constant(given.children[-1]) if given is not None and given.children else UNKNOWN

    # Functions

    def enter(self, function: Function, given: tuple[list[Value], dict[str, Value]] | None) -> Value:
        """Follow a call with its arguments, or (with None) a function that nobody calls, whose parameters are what they are named."""
        function.entered = True
        by_name = given is None
        evaluates = by_name and bool(names.EVALUATES.search(function.name)) and not re.search("train", function.name)
        has_val = by_name and any(names.is_validation(name) for name, _, _ in function.parameters)
        self.entered += 1
        trains = re.search(r"^(main|run|train)", function.name) is not None
        frame = Frame(function, function.outer or self.top, by_name and (has_val or evaluates) and not trains, self.entered)
        positional, keywords = given or ([], {})
        rest = list(positional)
        for name, default, stars in function.parameters:
            if stars == "*":
                value = Value(together(rest).tags, items=tuple(rest)) if rest else NOTHING
                rest = []
            elif stars == "**":
                value = together(keywords.values())
            elif rest:
                value = rest.pop(0)
            elif name in keywords:
                value = keywords[name]
            else:
                value = Value(constant=self.constant(default)) if default is not None else NOTHING
            own = names.tags(name)
            if by_name:
                value = value.plus(own & (KEPT_BY_NAME | {VAL, TRAIN}))
                if evaluates and not has_val and re.search(rf"^({names._DATA})$", name):
                    value = value.plus(frozenset((VAL,)))
            else:
                value = value.plus(own & KEPT_BY_NAME)
                if VAL in own and not value.tags & {TRAIN, RANDOM}:
                    value = value.plus(frozenset((VAL,)))
            frame.variables[name] = value
        before, self.frame = self.frame, frame
        self.depth += 1
        try:
            if function.body is not None:
                if function.body.kind == "block":
                    self._define(function.body.children, Frame(None, None, False, 0))
                    self.block(function.body.children)
                else:
                    frame.returned.append(self.value(function.body))
        finally:
            self.frame = before
            self.depth -= 1
        self.check_fitted(frame)
        return frame.returned[0] if len(frame.returned) == 1 else together(frame.returned)

    def call_function(self, function: Function, positional: list[Value], keywords: dict[str, Value]) -> Value:
        """Enter a function once for each kind of arguments; later calls of the same kind have the same trace."""
        if self.depth >= CALLS or function.calls_itself:
            return together([*positional, *keywords.values()])
        functions = tuple(id(value.function) for value in (*positional, *keywords.values()) if value.function)
        marks = tuple(frozenset(tag for tag in value.tags if isinstance(tag, str)) for value in positional)
        named = tuple((name, value.tags) for name, value in sorted(keywords.items()))
        clock = self.clock + 1
        key = (id(function), marks, named, functions, bool(self.loops)) if function.outer is None else None
        if key is None or key not in self.remembered:
            outside, self.items = self.items, []
            function.calls_itself = True
            try:
                found = self.enter(function, (positional, keywords)), self.items
            finally:
                function.calls_itself = False
                self.items = outside
            if key is not None:
                self.remembered[key] = found
        else:
            found = self.remembered[key]
        if found[1]:
            self.items.append(Call(function.name, found[1], clock))
        given = frozenset(tag for value in (*positional, *keywords.values()) for tag in value.tags if not isinstance(tag, str))
        result = found[0]
        if any(is_born(tag) and tag not in given for tag in result.tags):  # computed in this call, also if it was followed before
            self.clock += 1
            kept = frozenset(tag for tag in result.tags if not is_born(tag)) | {("born", self.clock)}
            result = Value(kept, result.constant, result.function, result.items)
        return result.plus(given) if result.tags else result
