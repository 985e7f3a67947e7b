"""What the program does not need: checks and their sentences, progress bars, and every definition that nothing refers to.

* A check is `require(...)`, or an `if` that only raises. The settings that are bundled passed all of them, and a run of the same pipeline
  made the same blob; so they are left out, as published scripts leave out their asserts. A `try` whose handlers only raise is its body.
* A definition is needed if its name is read somewhere that is needed; a method if its name is looked up anywhere, in whatever class.
"""

import ast
import re

from stages.lib.one_script.syntax import nodes

RAISED = ("ValueError", "AssertionError", "TypeError", "NotImplementedError")
OURS = ("errors__ArtifactError", "codecs__CodecError", "codecs__MissingProgram")
# Python's own functions, and methods, that change nothing
PURE = {"len", "sorted", "set", "dict", "list", "tuple", "min", "max", "sum", "any", "all", "isinstance", "enumerate", "zip", "range",
        "bool", "int", "float", "str", "getattr", "hasattr", "type", "map", "abs", "repr", "frozenset", "id", "round",
        "stage__read_json", "tensors__load"}
PURE_METHODS = {"items", "values", "keys", "get", "join", "split", "partition", "startswith", "endswith", "numel", "size", "fromkeys",
                "isfinite", "item", "removeprefix", "removesuffix", "get_close_matches", "signature", "is_file", "is_dir", "format",
                "count", "max", "min", "any", "all", "named_parameters", "parameters", "float", "abs",
                "detach", "cpu", "stat", "perf_counter",
                "is_available", "find_spec", "pairwise", "fields"}
CHECK = re.compile(r"(\w+__)?_?check(_\w+)?")  # a function that only raises
KEPT_METHODS = {"forward", "backward"}  # torch calls them


class Checks(ast.NodeTransformer):
    """Drops checks, sentences, prints and progress bars."""

    def __init__(self, *, requires: set[str], bars: set[str]):
        self.requires, self.bars = requires, bars
        self.dropped: list[str] = []  # conditions that are no longer computed, for a look at them

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name) and node.value.func.id in {*self.requires, "print"}:
            return None
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if not node.orelse and only_raises(node.body) and not any(isinstance(part, ast.NamedExpr) for part in nodes(node.test)):
            self.dropped.append(ast.unparse(node.test))
            return None
        if node.orelse and only_raises(node.orelse):
            node.orelse = []
        self.generic_visit(node)
        if not node.body:
            node.body = [ast.Pass()]
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST | list:
        node.handlers = [handler for handler in node.handlers if not only_raises(handler.body)]
        self.generic_visit(node)
        for handler in node.handlers:
            filled(handler)
        node.body = node.body or [ast.Pass()]
        if not node.handlers and not node.finalbody:
            return [*node.body, *node.orelse]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc, node.cause = node.exc.func, None
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in self.bars and node.args:
            return node.args[0]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if CHECK.fullmatch(node.name):  # what is called so, only raises
            node.body = []
            return filled(node)
        made = {target.id for part in nodes(node) if isinstance(part, ast.Assign) and isinstance(part.value, ast.Call)
                and isinstance(part.value.func, ast.Name) and part.value.func.id in self.bars and not part.value.args
                for target in part.targets if isinstance(target, ast.Name)}
        if made:
            node = WithoutNames(made).visit(node)
        self.generic_visit(node)
        return filled(node)

    visit_ClassDef = visit_For = visit_While = visit_With = lambda self, node: filled(self.generic_visit(node))


class WithoutNames(ast.NodeTransformer):
    """Drops statements that only make or call one of these."""

    def __init__(self, names: set[str]):
        self.names = names

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if isinstance(node.targets[0], ast.Name) and node.targets[0].id in self.names else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        call = node.value
        is_one = (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
                  and call.func.value.id in self.names)
        return None if is_one else node


class Dead(ast.NodeTransformer):
    """Inside functions: loops that do nothing, values that nobody reads, calls of functions that do nothing."""

    def __init__(self, empty: set[str], empty_methods: set[str]):
        self.empty, self.empty_methods, self.changed = empty, empty_methods, False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        inside = nodes(node)
        read = {part.id for part in inside if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Store)}
        read |= {name for part in inside if isinstance(part, ast.Nonlocal | ast.Global) for name in part.names}
        node = Unread(read, self).visit(node)
        self.generic_visit(node)
        return filled(node)

    visit_ClassDef = lambda self, node: filled(self.generic_visit(node))  # noqa: E731

    def visit_For(self, node: ast.For) -> ast.AST | None:
        self.generic_visit(node)
        return self._gone() if nothing(node.body) and not node.orelse and is_pure(node.iter) else filled(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        if nothing(node.orelse):
            node.orelse = []
        return self._gone() if nothing(node.body) and not node.orelse and is_pure(node.test) else filled(node)

    def visit_With(self, node: ast.With) -> ast.AST | None:
        return filled(self.generic_visit(node))

    visit_While = visit_With

    def visit_Try(self, node: ast.Try) -> ast.AST | list:
        filled(self.generic_visit(node))
        for handler in node.handlers:
            filled(handler)
        return node if node.handlers or node.finalbody else [*node.body, *node.orelse]

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        call = node.value
        if isinstance(call, ast.Call) and all(map(is_pure, [*call.args, *(keyword.value for keyword in call.keywords)])):
            function = call.func
            if isinstance(function, ast.Name) and function.id in self.empty:
                return self._gone()
            if isinstance(function, ast.Attribute) and function.attr in self.empty_methods:
                return self._gone()
        return self._gone() if is_pure(call) else node

    def _gone(self) -> None:
        self.changed = True


class Unread(ast.NodeTransformer):
    """Assignments of one function to names that it never reads."""

    def __init__(self, read: set[str], dead: Dead):
        self.read, self.dead = read, dead

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        names = [target for target in node.targets if isinstance(target, ast.Name) and target.id not in self.read]
        if len(names) == len(node.targets):
            self.dead.changed = True
            return None if is_pure(node.value) else ast.copy_location(ast.Expr(node.value), node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node


def only_raises(body: list[ast.stmt]) -> bool:
    """Whether a block only makes a sentence and raises one of the errors that checks raise."""
    *before, last = body or [ast.Pass()]
    if not isinstance(last, ast.Raise) or not all(isinstance(part, ast.Assign) for part in before):
        return False
    error = last.exc.func if isinstance(last.exc, ast.Call) else last.exc
    if isinstance(error, ast.Attribute) and error.attr.startswith("_too_"):  # makes the sentence
        return True
    return error is None or (isinstance(error, ast.Name) and error.id in (*RAISED, *OURS))


def is_pure(node: ast.expr) -> bool:
    """Whether computing it changes nothing: no call but of what is known to change nothing, or is marked so (calls.mark)."""
    for part in nodes(node):
        if isinstance(part, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr):
            return False
        if isinstance(part, ast.Call) and not getattr(part, "changes_nothing", False):
            function = part.func
            if not ((isinstance(function, ast.Name) and function.id in PURE)
                    or (isinstance(function, ast.Attribute) and function.attr in PURE_METHODS)):
                return False
    return True


def nothing(body: list[ast.stmt]) -> bool:
    return all(isinstance(part, ast.Pass) for part in body)


def filled(node):
    """A block must hold a statement."""
    if not node.body:
        node.body = [ast.Pass()]
    return node


def unreachable(tree: ast.Module, roots: list[ast.stmt]) -> bool:
    """Drop, in place, what nothing needs; `roots` are statements of the module that must stay. Returns whether anything went.

    A method is needed if what is needed looks up its name, in whatever class; strings are names, for getattr.
    """
    defined: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _defines(statement):
            defined.setdefault(name, []).append(statement)
    methods: dict[str, list[ast.FunctionDef]] = {}  # of classes that are needed
    needed, looked_up, waiting = set(), set(), [*roots, *(statement for statement in tree.body if not _defines(statement))]
    while waiting:
        statement = waiting.pop()
        if id(statement) in needed:
            continue
        needed.add(id(statement))
        for part in statement.body if isinstance(statement, ast.ClassDef) else ():
            if _is_optional(part):
                methods.setdefault(part.name, []).append(part)
                waiting += [part] * (part.name in looked_up)
        for part in _without_optional(statement):
            if isinstance(part, ast.Name):
                waiting += defined.get(part.id, [])
            name = part.attr if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load) else (
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None)
            if name is not None and name not in looked_up:
                looked_up.add(name)
                waiting += methods.get(name, [])
    gone = False
    tree.body, before = [statement for statement in tree.body if id(statement) in needed], len(tree.body)
    gone |= len(tree.body) < before
    for node in nodes(tree):
        if isinstance(node, ast.ClassDef):
            kept = [part for part in node.body if not _is_optional(part) or part.name in looked_up]
            gone |= len(kept) < len(node.body)
            node.body = kept or [ast.Pass()]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "SimpleNamespace":
            kept = [keyword for keyword in node.keywords if keyword.arg in looked_up]
            gone |= len(kept) < len(node.keywords)
            node.keywords = kept
    return gone


def overridden(tree: ast.Module) -> bool:
    """Drop, in place, methods of a class of which only heirs are made that all have their own. Returns whether anything went."""
    classes = {cls.name: cls for cls in tree.body if isinstance(cls, ast.ClassDef)}
    heirs: dict[str, list[ast.ClassDef]] = {}
    for cls in classes.values():
        for base in cls.bases:
            heirs.setdefault(ast.unparse(base), []).append(cls)
    bases = {id(base) for cls in classes.values() for base in cls.bases}
    used = {part.id for part in nodes(tree) if isinstance(part, ast.Name) and id(part) not in bases}
    gone = False
    for name in heirs.keys() & classes.keys() - used:
        above = {part.attr for heir in heirs[name] for part in nodes(heir) if isinstance(part, ast.Attribute)
                 and isinstance(part.value, ast.Call) and getattr(part.value.func, "id", "") == "super"}
        common = set.intersection(*({part.name for part in heir.body if isinstance(part, ast.FunctionDef)} for heir in heirs[name]))
        kept = [part for part in classes[name].body if not isinstance(part, ast.FunctionDef) or part.name not in common - above]
        gone |= len(kept) < len(classes[name].body)
        classes[name].body = kept or [ast.Pass()]
    return gone


def _is_optional(part: ast.stmt) -> bool:
    """Whether it is a method that somebody must look up to call it."""
    return isinstance(part, ast.FunctionDef) and not part.name.startswith("__") and part.name not in KEPT_METHODS


def _without_optional(statement: ast.stmt) -> list[ast.AST]:
    """All nodes of a statement, but of a class those methods only by their decorators."""
    if not isinstance(statement, ast.ClassDef):
        return nodes(statement)
    parts = [*statement.bases, *statement.keywords, *statement.decorator_list,
             *(part for part in statement.body if not _is_optional(part))]
    return [inner for part in parts for inner in nodes(part)]


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.If):  # what it defines; it does nothing else
        return [name for part in statement.body for name in _defines(part)]
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in statement.names]
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [part.id for target in targets for part in nodes(target)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and isinstance(statement.value.func, ast.Attribute) and (
            isinstance(statement.value.func.value, ast.Name)):
        return [statement.value.func.value.id]  # what it does, it does to that
    return []
