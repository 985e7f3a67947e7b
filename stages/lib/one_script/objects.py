"""Attributes: what is stored and never read goes, and those that are only ours get short names.

A network's attributes stay, and keep their names: they are its weights' names. So do those that a foreign class has, or a string names.
"""

import ast
import itertools
import keyword
import string
from collections import Counter

from stages.lib.one_script import index, prune
from stages.lib.one_script.syntax import nodes

GROWS = ("append", "extend", "add", "update", "clear")


def forget(tree: ast.Module) -> bool:
    """Drop, in place, what is stored in attributes that nobody reads. Returns whether anything went."""
    here = index.Index(tree)
    grown = {id(part.value.func.value) for part in here.every if isinstance(part, ast.Expr) and _grows(part.value)}
    read = {part.attr for part in here.every if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load)
            and id(part) not in grown}
    ours = {part.attr for cls in here.classes.values() for part in nodes(cls) if isinstance(part, ast.Attribute)
            and isinstance(part.ctx, ast.Store) and isinstance(part.value, ast.Name) and part.value.id == "self"}
    ours |= {part.target.id for cls in here.classes.values() for part in cls.body if isinstance(part, ast.AnnAssign)}
    networks = {name for name, cls in here.classes.items() if index.is_module_class(cls)}
    forgetting = _Forget(ours - read - here.words - index.foreign(), networks)
    forgetting.visit(tree)
    return forgetting.changed


def _grows(node: ast.expr) -> bool:
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in GROWS
            and isinstance(node.func.value, ast.Attribute) and all(map(prune.is_pure, node.args)))


class _Forget(ast.NodeTransformer):
    def __init__(self, unread: set[str], networks: set[str]):
        self.unread, self.networks, self.changed, self.inside = unread, networks, False, False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        before, self.inside = self.inside, node.name in self.networks
        self.generic_visit(node)
        self.inside = before
        return prune.filled(node)

    def _dead(self, target: ast.expr, value: ast.expr) -> bool:
        return (isinstance(target, ast.Attribute) and target.attr in self.unread and prune.is_pure(value)
                and not (self.inside and not isinstance(value, ast.Constant)))

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        if len(node.targets) != 1:
            return node
        target, value = node.targets[0], node.value
        if self._dead(target, value):
            return self._gone()
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            kept = [pair for pair in zip(target.elts, value.elts, strict=True) if not self._dead(*pair)]
            if len(kept) < len(target.elts):
                self.changed = True
                if not kept:
                    return None
                left, right = [one for one, _ in kept], [two for _, two in kept]
                node.targets[0] = left[0] if len(kept) == 1 else ast.Tuple(left, ast.Store())
                node.value = right[0] if len(kept) == 1 else ast.Tuple(right, ast.Load())
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        return self._gone() if self._dead(node.target, node.value) else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if _grows(node.value) and node.value.func.value.attr in self.unread:
            return self._gone()
        return node

    def _gone(self) -> None:
        self.changed = True

    visit_FunctionDef = visit_For = visit_While = visit_With = visit_If = lambda self, node: prune.filled(self.generic_visit(node))


def rename(tree: ast.Module) -> None:
    """Short names, in place, for the attributes, fields and methods that are ours alone; the most frequent first."""
    here = index.Index(tree)
    ours: set[str] = set()
    weights: set[str] = set()
    for cls in here.classes.values():
        named = index.is_module_class(cls) or cls.name in here.passed  # by names of weights, or of keys in files
        stored = {part.attr for part in nodes(cls) if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
                  and isinstance(part.value, ast.Name) and part.value.id == "self"}
        methods = {part.name for part in cls.body if isinstance(part, ast.FunctionDef)}
        fields = {part.target.id for part in cls.body if isinstance(part, ast.AnnAssign)}
        fields |= {target.id for part in cls.body if isinstance(part, ast.Assign) for target in part.targets
                   if isinstance(target, ast.Name)}
        if named:
            weights |= stored | fields
            ours |= methods
        else:
            ours |= stored | fields | methods
    external = {alias.asname or alias.name for part in tree.body if isinstance(part, ast.Import | ast.ImportFrom) for alias in part.names}
    theirs = {part.attr for part in here.every if isinstance(part, ast.Attribute) and _root(part) in external}
    keywords = {one.arg for part in here.every if isinstance(part, ast.Call) for one in part.keywords}
    taken = weights | theirs | here.words | keywords | index.foreign()
    used = Counter(part.attr for part in here.every if isinstance(part, ast.Attribute))
    chosen = [name for name, _ in used.most_common() if name in ours - taken and not name.startswith("__") and len(name) > 1]
    every = {part.attr for part in here.every if isinstance(part, ast.Attribute)} | taken | ours
    letters = string.ascii_letters
    short = (name for size in (1, 2) for name in map("".join, itertools.product(letters, repeat=size))
             if name not in every and not keyword.iskeyword(name))
    names = dict(zip(chosen, short, strict=False))
    _Rename(names).visit(tree)


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


class _Rename(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]):
        self.names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = self.names.get(node.attr, node.attr)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        for part in node.body:
            if isinstance(part, ast.FunctionDef):
                part.name = self.names.get(part.name, part.name)
            elif isinstance(part, ast.AnnAssign):
                part.target.id = self.names.get(part.target.id, part.target.id)
            elif isinstance(part, ast.Assign):
                for target in part.targets:
                    if isinstance(target, ast.Name):
                        target.id = self.names.get(target.id, target.id)
        return node
