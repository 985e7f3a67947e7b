"""Functions that are called in one place go there; those that are one expression go wherever that is shorter.

    def half(x): return x / 2      f(half(y))            ->  f(y / 2)
    def put(x): a = x + 1; b(a)    put(c)                ->  put__a = c + 1; b(put__a)        as a statement of its own, in no loop

Only where every call is known (`index`). In a loop the values of the last turn would stay in memory for another one.
"""

import ast
from collections import Counter
from dataclasses import dataclass

from stages.lib.one_script import calls, index, prune
from stages.lib.one_script.syntax import copied, nodes

NESTED = (ast.FunctionDef, ast.ClassDef, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal, ast.Await)
LOOPS = (ast.For, ast.While)


@dataclass(frozen=True)
class Body:
    """A function that may go where it is called."""

    name: str
    receiver: str | None  # the name of self
    arguments: list[str]
    defaults: dict[str, ast.expr]
    node: ast.FunctionDef
    calls: int


def bodies(tree: ast.Module) -> tuple[dict[str, Body], dict[str, Body]]:
    """By name of the function, and by name of the method."""
    here = index.Index(tree)
    found: tuple[dict[str, Body], dict[str, Body]] = {}, {}
    for kind, every in enumerate((here.known_functions(), here.known_methods())):
        for name, known in every.items():
            own = calls.signature(known)
            (node, *more) = known.definitions
            if own is None or more or not own.given or node.decorator_list or any(isinstance(part, NESTED) for part in nodes(node)[1:]):
                continue
            if any(isinstance(part, ast.Name) and part.id in ("super", name) for part in nodes(node)) or any(
                    isinstance(part, ast.Attribute) and part.attr == name and kind for part in nodes(node)):
                continue
            receiver = (node.args.posonlyargs + node.args.args)[0].arg if kind else None
            if any(not calls.is_literal(value) for value in own.defaults.values()):
                continue
            found[kind][name] = Body(name, receiver, own.names, own.defaults, node, len(own.given))
    return found


def inlined(tree: ast.Module) -> bool:
    """In place; returns whether anything moved."""
    functions, methods = bodies(tree)
    inlining = _Inline(functions, methods)
    inlining.visit(tree)
    return inlining.changed


class _Inline(ast.NodeTransformer):
    def __init__(self, functions: dict[str, Body], methods: dict[str, Body]):
        self.functions, self.methods, self.changed = functions, methods, False
        self.inside: list[str] = []
        self.loops = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.inside.append(node.name)
        before, self.loops = self.loops, 0
        node.body = self._block(node.body)
        self.loops = before
        self.inside.pop()
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        out = []
        for statement in body:
            moved = self._statements(statement)
            if moved is not None:
                self.changed = True
                out += moved
                continue
            out.append(self.visit(statement))
        return out

    def _compound(self, node: ast.stmt) -> ast.stmt:
        self.loops += isinstance(node, LOOPS)
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self._block(value))
            elif isinstance(value, ast.expr):
                setattr(node, name, self.visit(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(item) for item in value])
        self.loops -= isinstance(node, LOOPS)
        return node

    visit_If = visit_For = visit_While = visit_With = visit_Try = visit_ExceptHandler = _compound

    def _body_of(self, call: ast.Call) -> tuple[Body, ast.expr | None] | None:
        if isinstance(call.func, ast.Name) and call.func.id in self.functions:
            found, receiver = self.functions[call.func.id], None
        elif isinstance(call.func, ast.Attribute) and call.func.attr in self.methods:
            found, receiver = self.methods[call.func.attr], call.func.value
            if not _is_simple(receiver):
                return None
        else:
            return None
        return None if found.name in self.inside or not self.inside else (found, receiver)

    # Expressions

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        chosen = self._body_of(node)
        if chosen is None:
            return node
        body, receiver = chosen
        if len(body.node.body) != 1 or not isinstance(body.node.body[0], ast.Return) or body.node.body[0].value is None:
            return node
        expression = body.node.body[0].value
        short, call = len(ast.unparse(expression)), len(ast.unparse(node))
        if body.calls > 1 and body.calls * (short - call) > len(ast.unparse(body.node)):
            return node
        values = _given(body, node, receiver)
        bound = {part.id for part in nodes(expression) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        bound |= {part.arg for part in nodes(expression) if isinstance(part, ast.arg)}
        uses = Counter(part.id for part in nodes(expression) if isinstance(part, ast.Name))
        inner = {part.id for scope in nodes(expression) if isinstance(scope, ast.Lambda | ast.GeneratorExp | ast.ListComp | ast.DictComp
                 | ast.SetComp | ast.IfExp | ast.BoolOp) for part in nodes(scope) if isinstance(part, ast.Name)}
        later = {part.id for scope in nodes(expression) if isinstance(scope, ast.Lambda | ast.GeneratorExp) for part in nodes(scope)
                 if isinstance(part, ast.Name)}  # computed when the names of here may stand for something else
        for name, value in values.items():
            if name in later and not isinstance(value, ast.Constant):
                return node
            free = {part.id for part in nodes(value) if isinstance(part, ast.Name)}
            if free & bound or name in bound:
                return node
            if not _is_simple(value) and (uses[name] != 1 or name in inner or not prune.is_pure(value)):
                return node
        self.changed = True
        return _Put(values).visit(copied(expression))

    # Statements

    def _statements(self, statement: ast.stmt) -> list[ast.stmt] | None:
        if not isinstance(statement, ast.Expr | ast.Return | ast.Assign) or not isinstance(statement.value, ast.Call) or self.loops:
            return None
        chosen = self._body_of(statement.value)
        if chosen is None or chosen[0].calls > 1:
            return None
        body, receiver = chosen
        *before, last = body.node.body
        returns = [part for part in nodes(body.node) if isinstance(part, ast.Return)]
        if len(returns) > isinstance(last, ast.Return):
            return None
        values = _given(body, statement.value, receiver)
        own = {part.id for part in nodes(body.node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        own |= {part.arg for part in nodes(body.node) if isinstance(part, ast.arg)}
        own |= {part.name for part in nodes(body.node) if isinstance(part, ast.ExceptHandler) and part.name}
        stored = {part.id for part in nodes(body.node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        bound = {part.arg for lambda_ in nodes(body.node) if isinstance(lambda_, ast.Lambda) for part in nodes(lambda_.args)
                 if isinstance(part, ast.arg)}
        if any(isinstance(part, ast.ExceptHandler) and part.name for part in nodes(body.node)) or bound & set(values):
            return None
        later = {part.id for scope in nodes(body.node) if isinstance(scope, ast.Lambda | ast.GeneratorExp) for part in nodes(scope)
                 if isinstance(part, ast.Name)}
        direct = {name: value for name, value in values.items() if name not in stored and (
            isinstance(value, ast.Constant) or (isinstance(value, ast.Name) and name not in later))}
        names = {name: f"{body.name}__{name}" for name in own}
        out: list[ast.stmt] = [ast.Assign([ast.Name(names[name], ast.Store())], value) for name, value in values.items()
                               if name not in direct]
        renaming = _Rename(names, direct)
        out += [renaming.visit(copied(part)) for part in (before if isinstance(last, ast.Return) else body.node.body)]
        result = renaming.visit(copied(last.value)) if isinstance(last, ast.Return) and last.value is not None else ast.Constant(None)
        if isinstance(statement, ast.Expr):
            if not prune.is_pure(result):
                out.append(ast.Expr(result))
        else:
            statement.value = result
            out.append(statement)
        return [ast.fix_missing_locations(ast.copy_location(part, statement)) for part in out] or [ast.Pass()]


def _given(body: Body, call: ast.Call, receiver: ast.expr | None) -> dict[str, ast.expr]:
    given = dict(zip(body.arguments, call.args, strict=False)) | {keyword.arg: keyword.value for keyword in call.keywords}
    values = {name: given.get(name, body.defaults.get(name)) for name in body.arguments}
    return ({body.receiver: receiver} if receiver is not None else {}) | values


def _is_simple(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name | ast.Constant)


class _Put(ast.NodeTransformer):
    def __init__(self, values: dict[str, ast.expr]):
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return copied(self.values[node.id]) if node.id in self.values else node


class _Rename(ast.NodeTransformer):
    def __init__(self, names: dict[str, str], direct: dict[str, ast.expr]):
        self.names, self.direct = names, direct

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.direct:
            return copied(self.direct[node.id])
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self.names.get(node.arg, node.arg)
        return node
