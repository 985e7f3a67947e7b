"""What is known before the program runs: settings become numbers, and branches that cannot be taken disappear.

    settings.qat.form == "none"          ->  True, and with it the branch        self.settings.bits   ->  6
    "two_lane" in net.features           ->  False, if the recipe has not this feature
    hooks.apply("final", x)              ->  x, if no feature of the recipe has this hook

A name stands for settings if its annotation is their class, of which there is one instance; so does `self.<name>` that `__init__` sets from
such an argument. What differs from run to run (`UNKNOWN`: seed and number of processes) stays.
"""

import ast
from collections import Counter
from dataclasses import dataclass, field, fields, is_dataclass

from stages.lib.one_script import prune
from stages.lib.one_script.expressions import SCALARS, decided, each, is_nothing, pairs, plain
from stages.lib.one_script.syntax import copied, nodes

COMPARE = {ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b, ast.Is: lambda a, b: a is b, ast.IsNot: lambda a, b: a is not b,
           ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Gt: lambda a, b: a > b, ast.GtE: lambda a, b: a >= b,
           ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b}
ARITHMETIC = {ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
              ast.FloorDiv: lambda a, b: a // b if b else UNKNOWN}
UNKNOWN = object()


@dataclass(frozen=True)
class Known:
    """What is known of a program. `instances`: by name of the class; `unknown`: (class, field); `features` that are on, `hooks` that they
    have, `absent`: features that may be gone from a model although they are on."""

    instances: dict[str, object]
    unknown: set[tuple[str, str]]
    features: set[str]
    all_features: set[str]
    hooks: set[str]
    absent: set[str]
    choices: dict[str, set]              # of a field that has the same meaning wherever it stands: all its values
    tables: dict[str, dict]              # global dictionaries and namespaces: what stands under each key
    loader: str                          # the function that loads plug-ins by name, and by name of the plug-in, their namespaces
    loaded: dict[str, str]
    arguments: dict[str, dict[str, object]]  # by function, class or .method: arguments that are the same constant in every call
    once: set[str]                       # attributes that are stored in one place of the program
    constants: dict[str, object]         # attributes that are stored in one place, and there are this constant
    never: tuple[str, ...]               # no word begins with one of these
    absent_keys: frozenset[str]          # that no scheme of a quantized matrix has
    names: dict[tuple[type, str], str] = field(default_factory=dict)   # by class and field: the global name that has its value
    config: object = None                                      # of the network; what differs from run to run is UNKNOWN
    present: frozenset[str] = frozenset()                      # attributes that always are an object of a class of the program
    returns: dict[str, object] = field(default_factory=dict)   # by function: the constant that is all it returns


class Fold(ast.NodeTransformer):
    """One pass over the one module; `changed` says whether another one may find more."""

    def __init__(self, known: Known):
        self.known, self.changed = known, False
        self.scopes: list[dict[str, object]] = [{}]
        self.members: dict[str, object] = {}  # of `self` in the class that is being read
        self.cls = ""

    # What expressions are worth

    def value(self, node: ast.expr):
        """The value of an expression, or UNKNOWN."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load):
            items = [self.value(item) for item in node.elts]
            return UNKNOWN if UNKNOWN in items else tuple(items) if isinstance(node, ast.Tuple) else items
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), UNKNOWN)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in self.members:
                return self.members[node.attr]
            if node.attr in self.known.constants:
                return self.known.constants[node.attr]
            base = self.value(node.value)
            if isinstance(node.value, ast.Attribute) and node.value.attr == "config" and node.attr in vars(self.known.config):
                return vars(self.known.config)[node.attr]
            if is_dataclass(base) and not isinstance(base, type) and (type(base).__name__, node.attr) not in self.known.unknown:
                # several instances in one have no properties
                return (vars(base).get(node.attr, UNKNOWN) if UNKNOWN in vars(base).values() else getattr(base, node.attr, UNKNOWN))
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            left, right = self.value(node.left), self.value(node.right)
            if type(left) in (int, float) and type(right) in (int, float):
                return ARITHMETIC[type(node.op)](left, right)
        return UNKNOWN

    # Names that stand for settings

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        scope = {}
        inside = nodes(node)
        counts = Counter(part.id for part in inside if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
        changed = {part.value.id for part in inside if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)}
        stored = set(counts)
        name = self.cls if node.name == "__init__" else f"{'.' * bool(self.cls)}{node.name}"
        always = self.known.arguments.get(name, {}) if len(self.scopes) == 1 else {}
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if argument.arg in always and argument.arg not in stored:
                scope[argument.arg] = always[argument.arg]
                continue
            instance = self.known.instances.get(getattr(argument.annotation, "id", None))
            # a name that is no setting hides one of the same name
            scope[argument.arg] = instance if instance is not None and argument.arg not in stored else UNKNOWN
        self.scopes.append(scope | {name: UNKNOWN for name in stored})
        for statement in node.body:  # settings = self.settings
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                for target, value in pairs(statement.targets[0], statement.value):
                    found = self.value(value)
                    if isinstance(target, ast.Name) and counts[target.id] == 1 and found is not UNKNOWN and (
                            is_dataclass(found) or type(found) in SCALARS or (found in ([], ()) and target.id not in changed)):
                        self.scopes[-1][target.id] = found
        node.body = self._block(node.body) or [ast.Pass()]
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.args = self.visit(node.args)
        self.scopes.pop()
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.scopes.append({argument.arg: UNKNOWN for argument in (*node.args.args, *node.args.kwonlyargs)})
        self.generic_visit(node)
        self.scopes.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        before, self.members, self.cls = self.members, {}, node.name
        own = self.known.instances.get(node.name)
        if own is not None:
            self.members |= {field.name: getattr(own, field.name) for field in fields(own)
                             if (node.name, field.name) not in self.known.unknown}
        init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
        if init:
            types = {argument.arg: self.known.instances[argument.annotation.id] for argument in (*init.args.args, *init.args.kwonlyargs)
                     if getattr(argument.annotation, "id", None) in self.known.instances}
            types |= self.known.arguments.get(node.name, {})
            for statement in nodes(init):
                if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                    for target, value in pairs(statement.targets[0], statement.value):
                        if isinstance(target, ast.Attribute) and isinstance(value, ast.Name) and value.id in types \
                                and target.attr in self.known.once:
                            self.members[target.attr] = types[value.id]
        self.generic_visit(node)
        self.members, self.cls = before, ""
        return node

    # Expressions

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._literal(node) if isinstance(node.ctx, ast.Load) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.ctx, ast.Load):
            found = self._literal(node)
            if found is not node:
                return found
            named = self.known.names.get((type(self.value(node.value)), node.attr))
            if named is not None:
                return self._take(ast.Name(named, ast.Load()))
            if isinstance(node.value, ast.Name) and node.attr in self.known.tables.get(node.value.id, {}):  # of a module
                return self._take(copied(self.known.tables[node.value.id][node.attr]))
        node.value = self.visit(node.value) if not self._is_settings(node.value) else node.value
        return node

    def _is_settings(self, node: ast.expr) -> bool:
        return is_dataclass(self.value(node))

    def _literal(self, node: ast.expr) -> ast.expr:
        found = self.value(node)
        if plain(found) and not isinstance(node, ast.Constant):
            return self._take(ast.parse(repr(found), mode="eval").body)  # a negative number is an operation
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 2 and UNKNOWN not in (ends := (self.value(node.left), self.value(node.comparators[0]))) and not COMPARE[
                type(node.ops[0])](*ends):
            return self._take(ast.Constant(False))
        if len(node.ops) == 1:
            left, right = self.value(node.left), self.value(node.comparators[0])
            if UNKNOWN not in (left, right) and type(node.ops[0]) in COMPARE and _are_comparable(left, right, node.ops[0]):
                return self._take(ast.Constant(COMPARE[type(node.ops[0])](left, right)))
            choices = self.known.choices.get(getattr(node.left, "attr", None))
            if choices is not None and isinstance(node.ops[0], ast.Eq | ast.NotEq) and isinstance(right, str) and (
                    right not in choices or len(choices) == 1):
                return self._take(ast.Constant((right in choices) == isinstance(node.ops[0], ast.Eq)))
            container = node.comparators[0]
            if right in ((), []) and isinstance(node.ops[0], ast.In | ast.NotIn) and prune.is_pure(node.left):
                return self._take(ast.Constant(isinstance(node.ops[0], ast.NotIn)))
            if isinstance(node.ops[0], ast.Is | ast.IsNot) and right is None and isinstance(node.left, ast.Attribute) and (
                    node.left.attr in self.known.present):
                return self._take(ast.Constant(isinstance(node.ops[0], ast.IsNot)))
            if isinstance(left, str) and left in self.known.absent_keys and isinstance(container, ast.Name) and isinstance(
                    node.ops[0], ast.In | ast.NotIn):
                return self._take(ast.Constant(isinstance(node.ops[0], ast.NotIn)))
            if isinstance(left, str) and isinstance(container, ast.Attribute) and container.attr == "features" and isinstance(
                    node.ops[0], ast.In | ast.NotIn):
                known = self._feature(left)
                if known is not UNKNOWN:
                    return self._take(ast.Constant(known == isinstance(node.ops[0], ast.In)))
        return node

    def _feature(self, name: str):
        """Whether a model has this feature, or UNKNOWN."""
        if name not in self.known.all_features or (name in self.known.features and name in self.known.absent):
            return UNKNOWN
        return name in self.known.features

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return self._literal(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        found = self.value(node.operand)
        return self._take(ast.Constant(not found)) if isinstance(node.op, ast.Not) and decided(found) else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        is_and, kept = isinstance(node.op, ast.And), []
        for number, part in enumerate(node.values):
            found = self.value(part)
            last = number == len(node.values) - 1
            if decided(found) and bool(found) == is_and and not last:
                self.changed = True
                continue
            kept.append(part)
            if decided(found) and bool(found) != is_and and not last:
                self.changed = True
                break
        node.values = kept
        return kept[0] if len(kept) == 1 else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        node.test = self.visit(node.test)
        found = self.value(node.test)
        if decided(found):
            return self._take(self.visit(node.body if found else node.orelse))
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        same = prune.is_pure(node.test) and ast.dump(node.body) == ast.dump(node.orelse)
        return self._take(node.body) if same else node

    def visit_With(self, node: ast.With) -> ast.AST | list:
        self.generic_visit(node)
        node.items = [item for item in node.items if ast.unparse(item) != "contextlib.nullcontext()"]
        return node if node.items else node.body

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        key = self.value(node.slice)
        if isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name) and isinstance(key, str) and key in self.known.tables.get(
                node.value.id, {}):
            return self._take(copied(self.known.tables[node.value.id][key]))
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        self.generic_visit(node)
        for part in node.generators:
            part.ifs = [test for test in part.ifs if not (decided(self.value(test)) and self.value(test))]
        is_empty = any(decided(self.value(test)) for part in node.generators for test in part.ifs)
        if is_empty or self.value(node.generators[0].iter) in ([], ()):
            return self._take(ast.List([], ast.Load()) if isinstance(node, ast.ListComp) else ast.Tuple([], ast.Load()))
        return node

    visit_GeneratorExp = visit_ListComp

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        for keyword in node.keywords:
            found = UNKNOWN if keyword.arg else self.value(keyword.value)
            if isinstance(found, dict) and all(map(plain, found.values())):
                keyword.value = self._take(ast.parse(repr(found), mode="eval").body)
        if isinstance(node.func, ast.Name) and node.func.id == self.known.loader and len(node.args) == 2:
            name = "/".join(str(self.value(argument)) for argument in node.args)
            if name in self.known.loaded:
                return self._take(ast.Name(self.known.loaded[name], ast.Load()))
        if isinstance(node.func, ast.Name) and node.func.id in ("enumerate", "sorted", "list", "tuple", "zip") and node.args and all(
                self.value(argument) in ((), []) for argument in node.args):
            return self._take(ast.Tuple([], ast.Load()))
        function, arguments = node.func, [self.value(argument) for argument in node.args]
        if isinstance(function, ast.Attribute) and function.attr == "startswith" and arguments[0] in self.known.never:
            return self._take(ast.Constant(False))
        if isinstance(function, ast.Attribute) and arguments and isinstance(arguments[0], str):
            owner = function.value
            if function.attr == "get" and arguments[0] in self.known.absent_keys and isinstance(owner, ast.Name):
                return self._take(node.args[1] if len(node.args) > 1 else ast.Constant(None))
            if function.attr == "get" and isinstance(owner, ast.Attribute) and owner.attr == "features" and self._feature(
                    arguments[0]) is False:
                return self._take(ast.Constant(None))
            if function.attr == "apply" and "hooks" in ast.unparse(owner) and arguments[0] not in self.known.hooks:
                return self._take(node.args[1])
        if isinstance(function, ast.Name) and function.id in self.known.returns and all(
                map(prune.is_pure, [*node.args, *(keyword.value for keyword in node.keywords)])):
            return self._take(ast.Constant(self.known.returns[function.id]))
        if isinstance(function, ast.Name) and function.id == "bool" and arguments and type(arguments[0]) in SCALARS:
            return self._take(ast.Constant(bool(arguments[0])))
        if isinstance(function, ast.Name) and function.id in ("max", "min") and len(arguments) > 1 and not node.keywords and all(
                type(argument) in (int, float) for argument in arguments):
            return self._take(ast.Constant({"max": max, "min": min}[function.id](arguments)))
        return node

    def _take(self, node: ast.expr) -> ast.expr:
        self.changed = True
        return node

    # Statements

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        out = []
        for statement in body:
            found = self.visit(statement)
            out += found if isinstance(found, list) else [found] if found else []
            if out and isinstance(out[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                break
        return out

    def visit_If(self, node: ast.If) -> ast.AST | list:
        node.test = self.visit(node.test)
        found = self.value(node.test)
        if decided(found):
            self.changed = True
            return self._block(node.body if found else node.orelse)
        node.body, node.orelse = self._block(node.body) or [ast.Pass()], self._block(node.orelse)
        return node

    def visit_While(self, node: ast.While) -> ast.AST | None:
        node.test = self.visit(node.test)
        node.body = self._block(node.body) or [ast.Pass()]
        return node

    def visit_For(self, node: ast.For) -> ast.AST | None:
        node.iter = self.visit(node.iter)
        found = self.value(node.iter)
        if found in ((), []) or self._no_feature(node.iter) or is_nothing(node.iter):
            self.changed = True
            return None
        node.target, node.body, node.orelse = self.visit(node.target), self._block(node.body) or [ast.Pass()], self._block(node.orelse)
        return node

    def _no_feature(self, node: ast.expr) -> bool:
        """`hooks.having["..."]` of a hook that no feature has."""
        return (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "having"
                and isinstance(node.slice, ast.Constant) and node.slice.value not in self.known.hooks)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list:
        expanded = each(node)
        if expanded is not None:
            self.changed = True
            return [self.visit(statement) for statement in expanded]
        self.generic_visit(node)
        return node


def _are_comparable(left, right, how: ast.cmpop) -> bool:
    """Whether Python would compare them; where it would not, the program does not come."""
    numbers = type(left) in (int, float, bool) and type(right) in (int, float, bool)
    if isinstance(how, ast.In | ast.NotIn):
        return isinstance(right, tuple | list | str) and (not isinstance(right, str) or isinstance(left, str))
    return numbers or type(left) is type(right) or not isinstance(how, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
