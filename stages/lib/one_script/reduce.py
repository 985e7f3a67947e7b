"""The program without what it does not need: fold, prune and fold again until nothing changes.

At first with annotations, which say what are settings; then without, when what calls and objects carry goes too (calls, objects, inline).
"""

import ast
import dataclasses
from collections import Counter

from stages.lib.one_script import calls, expressions, flatten, fold, index, inline, objects, prune, syntax


def run(flat: ast.Module, roots: list[ast.stmt], known: fold.Known, program: flatten.Program) -> None:
    """In place. `roots` are the statements of the program that run; all else is there for them."""
    requires = {flat for (_, own), flat in program.names.items() if own in ("require", "_require")}
    prune.Checks(requires=requires, bars={"tqdm"}).visit(flat)
    prune.unreachable(flat, roots)  # half of it, before it is read again and again
    known = dataclasses.replace(known, loader=program.names.get((flatten.PLUGIN, "load"), ""))
    while _settle(flat, roots, known):
        pass
    Plain().visit(flat)
    _drop_fields(flat, roots)
    slim(flat, roots, known)


def slim(flat: ast.Module, roots: list[ast.stmt], known: fold.Known) -> None:
    """A program without annotations, in place: also what calls and objects carry that nobody reads, and the names that they have."""
    while _settle(flat, roots, known, is_plain=True):
        pass
    calls.positional(flat)
    objects.rename(flat)
    ast.fix_missing_locations(flat)


def _settle(flat: ast.Module, roots: list[ast.stmt], known: fold.Known, *, is_plain: bool = False) -> bool:
    """One round, in place; returns whether another one may find more. `is_plain`: without annotations."""
    here = index.Index(flat)
    once, constants, present = _stored(flat, here)
    folding = fold.Fold(dataclasses.replace(
        known, tables=_tables(flat), arguments=calls.constants(here), once=once, constants=constants, present=present,
        returns=calls.returned(flat) if is_plain else {}))
    folding.visit(flat)
    changed = folding.changed
    if is_plain:
        here = index.Index(flat)
        calls.mark(here)
        if calls.spread(here):
            changed, here = True, index.Index(flat)
        changed |= calls.shorten(here)
        changed |= objects.forget(flat)
    dead = prune.Dead(*_empty(flat))
    dead.visit(flat)
    changed |= dead.changed
    changed |= prune.unreachable(flat, roots)
    if is_plain:
        changed |= prune.overridden(flat)
        changed = changed or inline.inlined(flat)
    return changed


def _drop_fields(flat: ast.Module, roots: list[ast.stmt]) -> None:
    """Fields of settings that are numbers in the program by now, and their values in the calls that make the settings."""
    nodes = syntax.nodes(flat)
    read = {part.attr for part in nodes if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load)}
    read |= {part.value for part in nodes if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    made = [part for root in roots for part in syntax.nodes(root) if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)]
    classes = {part.name: part for part in flat.body if isinstance(part, ast.ClassDef)}
    inside = {id(part) for part in made}
    elsewhere = {part.func.id for part in nodes if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)
                 and id(part) not in inside}
    for name in {part.func.id for part in made} & classes.keys() - elsewhere:
        fields = [part for part in classes[name].body if isinstance(part, ast.AnnAssign)]
        kept = [number for number, part in enumerate(fields) if part.target.id in read]
        classes[name].body = [part for part in classes[name].body if part not in fields or fields.index(part) in kept] or [ast.Pass()]
        for call in made:
            if call.func.id == name:
                call.args = [argument for number, argument in enumerate(call.args) if number in kept]


def _empty(flat: ast.Module) -> tuple[set[str], set[str]]:
    """Functions, and names of methods, that do nothing in any class. Of methods only checks: others may be called on what is not ours."""
    functions = {part.name for part in flat.body if isinstance(part, ast.FunctionDef) and prune.nothing(part.body)}
    bodies: dict[str, list[bool]] = {}
    for cls in flat.body:
        for part in cls.body if isinstance(cls, ast.ClassDef) else ():
            if isinstance(part, ast.FunctionDef):
                bodies.setdefault(part.name, []).append(prune.nothing(part.body))
    return functions, {name for name, empty in bodies.items() if all(empty) and prune.CHECK.fullmatch(name)}


class Plain(ast.NodeTransformer):
    """Annotations go; a dataclass's fields keep one of a letter."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        body = []
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and is_dataclass and "ClassVar" not in ast.unparse(part.annotation):
                part.annotation = ast.Constant(0)
                body.append(part)
            elif isinstance(part, ast.AnnAssign):
                if part.value is not None and "ClassVar" not in ast.unparse(part.annotation):
                    body.append(ast.Assign([part.target], part.value))
            else:
                body.append(part)
        node.body = body or [ast.Pass()]
        self.generic_visit(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if isinstance(node.annotation, ast.Constant):
            return node
        return ast.Assign([node.target], node.value) if node.value is not None else None


def _stored(flat: ast.Module, here: index.Index) -> tuple[set[str], dict[str, object], frozenset[str]]:
    """Attributes that are stored in one place of the program; and those of them that are a constant there, and are nobody else's."""
    nodes = syntax.nodes(flat)
    stores = [part for part in nodes if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load)]
    every = Counter(part.attr for part in stores)
    own = Counter((cls.name, part.attr) for cls in flat.body if isinstance(cls, ast.ClassDef) for part in syntax.nodes(cls)
                  if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load) and getattr(part.value, "id", "") == "self")
    inside = Counter(name for _, name in own.elements())
    bases = {(cls.name, getattr(base, "id", "")) for cls in flat.body if isinstance(cls, ast.ClassDef) for base in cls.bases}
    shared = {name for cls, name in own for other, base in bases if cls == other and (base, name) in own}
    once = {name for name, count in every.items() if count == inside[name] and name not in shared
            and all(number == 1 for (_, attribute), number in own.items() if attribute == name)}
    fields = {part.target.id for part in nodes if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)}
    taken = {part.name for part in nodes if isinstance(part, ast.FunctionDef)}
    taken |= {target.id for cls in nodes if isinstance(cls, ast.ClassDef) for part in cls.body if isinstance(part, ast.Assign)
              for target in part.targets if isinstance(target, ast.Name)}
    constants: dict[str, object] = {}
    given: dict[str, list[ast.expr]] = {}
    for part in nodes:
        if isinstance(part, ast.Assign) and len(part.targets) == 1:
            for target, value in expressions.pairs(part.targets[0], part.value):
                if isinstance(target, ast.Attribute):
                    given.setdefault(target.attr, []).append(value)
    for name, call in calls.fields_given(here).items():
        given.setdefault(name, []).extend(call)
        fields -= {name}
        every[name] += len(call)
    taken |= fields
    for name, values in given.items():
        if len(values) == every[name] and name not in taken and all(isinstance(value, ast.Constant) for value in values) and len(
                {repr(value.value) for value in values}) == 1 and name not in index.foreign():
            constants[name] = values[0].value
    classes = {part.name for part in flat.body if isinstance(part, ast.ClassDef)}
    present = frozenset(name for name, values in given.items() if len(values) == every[name] and name not in taken and all(
        isinstance(value, ast.Call) and (getattr(value.func, "id", "") in classes or ast.unparse(value.func) == "nn.Parameter")
        for value in values))
    return once, constants, present


def _tables(flat: ast.Module) -> dict[str, dict]:
    """Global dictionaries with words as keys, and namespaces of modules."""
    found = {}
    for statement in flat.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name, value = statement.targets[0].id, statement.value
            if isinstance(value, ast.Dict) and all(isinstance(key, ast.Constant) for key in value.keys) and all(
                    isinstance(item, ast.Name | ast.Constant) for item in value.values):
                found[name] = {key.value: item for key, item in zip(value.keys, value.values, strict=True)}
            elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == flatten.NAMESPACE:
                found[name] = {keyword.arg: keyword.value for keyword in value.keywords}
    return found
