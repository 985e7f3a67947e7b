"""What one expression or assignment is, by itself."""

import ast
import math

from stages.lib.one_script.syntax import copied, nodes

SCALARS = (bool, int, float, str, type(None))


def pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Targets of an assignment with their values; of a tuple each."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def plain(value) -> bool:
    """Whether its repr is the shortest way to write it."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return type(value) in SCALARS or (isinstance(value, tuple | list) and len(value) <= 8 and all(map(plain, value)))


def substituted(node: ast.AST, name: str, value: ast.expr) -> ast.AST:
    """A copy of `node` with `value` for `name`."""
    class Put(ast.NodeTransformer):
        def visit_Name(self, found: ast.Name) -> ast.AST:
            return copied(value) if found.id == name and isinstance(found.ctx, ast.Load) else found

    return Put().visit(copied(node))


def is_nothing(node: ast.expr) -> bool:
    """x[:0]"""
    return isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.lower is None and isinstance(
        node.slice.upper, ast.Constant) and node.slice.upper.value == 0


def decided(value) -> bool:
    return type(value) in SCALARS or isinstance(value, tuple | list)


def each(node: ast.Assign) -> list[ast.Assign] | None:
    """a, b = (f(x) for x in ("p", "q"))  ->  a = f("p"); b = f("q"), and a, b = p, q where neither reads a or b."""
    if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Tuple):
        return None
    targets, value = node.targets[0].elts, node.value
    if isinstance(value, ast.GeneratorExp) and len(value.generators) == 1 and not value.generators[0].ifs:
        part = value.generators[0]
        if isinstance(part.iter, ast.Tuple) and isinstance(part.target, ast.Name) and len(part.iter.elts) == len(targets):
            values = [substituted(value.elt, part.target.id, item) for item in part.iter.elts]
            return [ast.copy_location(ast.Assign([target], one), node) for target, one in zip(targets, values, strict=True)]
    if isinstance(value, ast.Tuple) and len(value.elts) == len(targets) and any(isinstance(item, ast.Constant) for item in value.elts):
        written = {child.id for target in targets for child in nodes(target) if isinstance(child, ast.Name)}
        read = {child.id for child in nodes(value) if isinstance(child, ast.Name)}
        if not written & read and all(isinstance(target, ast.Name) for target in targets):
            return [ast.copy_location(ast.Assign([target], one), node) for target, one in zip(targets, value.elts, strict=True)]
    return None
