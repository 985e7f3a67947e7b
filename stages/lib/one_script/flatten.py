"""Many modules into one: every name of a module gets a name of its own, imports among them disappear.

    stages/lib/stage.py: atomic     ->  stage__atomic           stage.atomic(path)      ->  stage__atomic(path)
    import torch                    ->  once, at the top        from .codecs import x   ->  codecs__x
    codecs as a value               ->  a namespace with the names that somebody may look up in it

Nothing is executed: who means whom is read off the syntax trees, by Python's rules of scope. Modules come in the order in which Python
would have run them. Annotations stay, for those who fold constants by the types of arguments.
"""

import ast
from dataclasses import dataclass, field
from pathlib import Path

from stages.lib import closure
from stages.lib.one_script import syntax

PLUGIN = "stages.runtime.plugin"
PLUGIN_SOURCE = "def names(kind):\n    pass\n\n\ndef load(kind, name):\n    return PLUGINS[kind + '/' + name]\n"
NAMESPACE = "SimpleNamespace"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class External:
    """A module of Python or of a package, or a name in it."""

    module: str
    name: str | None


@dataclass(frozen=True)
class Internal:
    """A module of ours (`name` None), or a name in it."""

    module: str
    name: str | None


@dataclass
class Module:
    """One of our files, parsed: what each of its own names means, and the modules that it runs before itself."""

    name: str
    tree: ast.Module
    means: dict[str, External | Internal] = field(default_factory=dict)


class Program:
    """All modules of one bundle. `sources` replace files, by module."""

    def __init__(self, sources: dict[str, str]):
        self.sources = {PLUGIN: PLUGIN_SOURCE} | sources
        self.modules: dict[str, Module] = {}
        self.order: list[str] = []      # as Python would run them
        self.externals: dict[External, str] = {}
        self.names: dict[tuple[str, str], str] = {}
        self.taken: set[str] = set()
        self.values: list[str] = []     # modules that are used as values

    def add(self, name: str) -> None:
        """Read a module and all that it imports."""
        if name in self.modules:
            return
        text = self.sources.get(name) or _path(name).read_text(encoding="utf-8")
        module = self.modules[name] = Module(name, ast.parse(text))
        every = [node for node in syntax.nodes(module.tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        first = [node for node in every if node in module.tree.body]
        for node in first:
            targets = imported(node, name)
            self._add_all(targets)
            module.means |= targets
        for bound in names_bound(module.tree.body):
            module.means.setdefault(bound, Internal(name, bound))
        self.order.append(name)
        for node in every:  # those inside of functions run later
            if node not in first:
                self._add_all(imported(node, name))

    def _add_all(self, targets: dict[str, "External | Internal"]) -> None:
        for target in targets.values():
            for needed in _parents(target):
                self.add(needed)

    def resolve(self, target: External | Internal) -> External | Internal:
        """What a name means in the end, through modules that only pass it on."""
        while isinstance(target, Internal) and target.name is not None:
            means = self.modules[target.module].means.get(target.name)
            if means is None:
                inner = Internal(f"{target.module}.{target.name}", None)
                if not is_ours(inner.module):
                    raise AssertionError(f"{target.module} has no {target.name}")
                return inner
            if means == target:
                return target
            target = means
        return target

    def name_of(self, target: External | Internal) -> str:
        """The name that stands for it in the one module."""
        if isinstance(target, External):
            if target not in self.externals:
                self.externals[target] = self._fresh(target.name or target.module.replace(".", "_"))
            return self.externals[target]
        if target.name is None and target.module not in self.values:
            self.values.append(target.module)
        key = (target.module, target.name or "")
        if key not in self.names:
            parts = [part for part in target.module.split(".") if part not in ("__main__", "__init__")]
            self.names[key] = self._fresh(f"{parts[-1]}__{target.name or 'module'}")
        return self.names[key]

    def _fresh(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name

    def flat(self, plugins: list[str]) -> tuple[ast.Module, dict[int, str]]:
        """The one module, and by the identity of a statement the module it is of. `plugins` (codecs/brotli) are loaded by name."""
        for name in plugins:
            self.name_of(Internal(f"stages.runtime.{name.replace('/', '.')}", None))
        bodies = {name: Rewriter(self, self.modules[name]).body() for name in self.order}
        statements = []
        for name in self.order:
            statements += bodies[name]
            if name in self.values:
                statements.append(self._namespace(name))
        table = ", ".join(f"{name!r}: {self.name_of(Internal('stages.runtime.' + name.replace('/', '.'), None))}" for name in plugins)
        statements += ast.parse(f"PLUGINS = {{{table}}}").body
        imports = [self._import(target, name) for target, name in sorted(self.externals.items(), key=lambda item: item[1])]
        module_of = {id(statement): name for name, body in bodies.items() for statement in body}
        return ast.fix_missing_locations(ast.Module([*imports, *statements], [])), module_of

    def _namespace(self, module: str) -> ast.stmt:
        own = [name for name, target in self.modules[module].means.items() if isinstance(self.resolve(target), Internal)
               and self.resolve(target).name]
        arguments = ", ".join(f"{name}={self.name_of(self.resolve(Internal(module, name)))}" for name in own)
        maker = self.name_of(External("types", NAMESPACE))
        return ast.parse(f"{self.name_of(Internal(module, None))} = {maker}({arguments})").body[0]

    @staticmethod
    def _import(target: External, name: str) -> ast.stmt:
        if target.name:
            return ast.ImportFrom(target.module, [ast.alias(target.name, None if name == target.name else name)], 0)
        return ast.Import([ast.alias(target.module, None if name == target.module else name)])


class Rewriter(ast.NodeTransformer):
    """One module in names of the program."""

    def __init__(self, program: Program, module: Module):
        self.program, self.module = program, module
        self.scopes: list[tuple[bool, dict[str, External | Internal | None]]] = []  # (is a class, what is bound: None is local)

    def body(self) -> list[ast.stmt]:
        out = []
        for statement in syntax.copied(self.module.tree.body):
            if isinstance(statement, ast.Import | ast.ImportFrom) or _is_command(statement):
                continue
            out.append(self.visit(statement))
        return out

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        if not self.scopes:  # inside a `try` of the module
            for alias in node.names:
                alias.asname = self.program.name_of(Internal(self.module.name, alias.asname or alias.name))
        return node

    visit_ImportFrom = visit_Import

    def means(self, name: str) -> External | Internal | None:
        """What a name means here; None: a local, or one of Python's own."""
        for number, (is_class, bound) in enumerate(reversed(self.scopes)):
            if name in bound and (not is_class or number == 0):
                return bound[name] and self.program.resolve(bound[name])
        target = self.module.means.get(name)
        return target and self.program.resolve(target)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        target = self.means(node.id)
        return ast.Name(self.program.name_of(target), node.ctx) if target else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        target = self._dotted(node)
        if target is not None:
            return ast.Name(self.program.name_of(target), node.ctx)
        node.value = self.visit(node.value)
        return node

    def _dotted(self, node: ast.expr) -> Internal | External | None:
        """What `module.name` means, if it begins with a module of ours."""
        if isinstance(node, ast.Name):
            return self.means(node.id)
        if isinstance(node, ast.Attribute):
            base = self._dotted(node.value)
            if isinstance(base, Internal) and base.name is None:
                return self.program.resolve(Internal(base.module, node.attr))
        return None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.name = self._own_name(node.name)
        self._signature(node.args)
        node.returns = None
        bound = {name: None for name in (*_arguments(node.args), *names_bound(node.body))}
        self.scopes.append((False, bound))
        kept = []
        for statement in node.body:
            kept += self._imports(statement, bound)
        node.body = [self.visit(statement) for statement in kept] or [ast.Pass()]
        self.scopes.pop()
        return node

    def _imports(self, statement: ast.stmt, bound: dict) -> list[ast.stmt]:
        """A local import of ours only says what a name means."""
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            return [statement]
        ours = {alias: target for alias, target in imported(statement, self.module.name).items() if isinstance(target, Internal)}
        bound |= ours
        return [] if ours else [statement]

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._signature(node.args)
        self.scopes.append((False, dict.fromkeys(_arguments(node.args))))
        node.body = self.visit(node.body)
        self.scopes.pop()
        return node

    def _signature(self, arguments: ast.arguments) -> None:
        arguments.defaults = [self.visit(value) for value in arguments.defaults]
        arguments.kw_defaults = [value and self.visit(value) for value in arguments.kw_defaults]
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            argument.annotation = argument.annotation and self.visit(argument.annotation)
        for argument in (arguments.vararg, arguments.kwarg):
            if argument:
                argument.annotation = None

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.bases = [self.visit(base) for base in node.bases]
        node.keywords = [self.visit(keyword) for keyword in node.keywords]
        node.name = self._own_name(node.name)
        self.scopes.append((True, dict.fromkeys(names_bound(node.body))))
        node.body = [self.visit(statement) for statement in node.body]
        self.scopes.pop()
        return node

    def _own_name(self, name: str) -> str:
        return name if self.scopes else self.program.name_of(Internal(self.module.name, name))

    def _comprehension(self, node: ast.AST) -> ast.AST:
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        self.scopes.append((False, {name: None for part in node.generators for name in _targets(part.target)}))
        for number, part in enumerate(node.generators):
            part.target = self.visit(part.target)
            if number:
                part.iter = self.visit(part.iter)
            part.ifs = [self.visit(test) for test in part.ifs]
        for name in ("elt", "key", "value"):
            if hasattr(node, name):
                setattr(node, name, self.visit(getattr(node, name)))
        self.scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension


def imported(node: ast.Import | ast.ImportFrom, module: str) -> dict[str, External | Internal]:
    """What an import statement binds, by name."""
    if isinstance(node, ast.Import):
        return {(alias.asname or alias.name.split(".")[0]): (Internal if is_ours(alias.name) else External)(
            alias.name if alias.asname else alias.name.split(".")[0], None) for alias in node.names}
    package = module.split(".") if _path(module).name == "__init__.py" else module.split(".")[:-1]
    base = ".".join([*(package[: len(package) - node.level + 1] if node.level else []), *([node.module] if node.module else [])])
    found = {}
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        if not is_ours(base) and base != "stages":
            target = External(base, alias.name)
        else:
            target = Internal(inner, None) if is_ours(inner) else Internal(base, alias.name)
        found[alias.asname or alias.name] = target
    return found


def is_ours(module: str) -> bool:
    """Whether a module lies under stages/; a folder without __init__.py is one too."""
    return module.split(".")[0] == "stages" and (_path(module).is_file() or closure.ROOT.joinpath(*module.split(".")).is_dir())


def _path(module: str) -> Path:
    base = closure.ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if (base / "__init__.py").is_file() else base.with_suffix(".py")


def _parents(target: External | Internal) -> list[str]:
    """The modules of ours that run when it is imported, packages first."""
    if isinstance(target, External):
        return []
    parts = target.module.split(".")
    return [name for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)) if _path(name).is_file()]


def names_bound(body: list[ast.stmt]) -> list[str]:
    """Names that statements bind in their own scope, in order, each once."""
    found: dict[str, None] = {}
    _bind(body, found)
    return list(found)


def _bind(nodes: list[ast.AST], found: dict) -> None:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found[node.name] = None
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name.split(".")[0]): None for alias in node.names}
        elif isinstance(node, ast.Lambda):
            continue
        elif isinstance(node, COMPREHENSIONS):
            _bind([child for child in syntax.nodes(node) if isinstance(child, ast.NamedExpr)], found)
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found[node.id] = None
            if isinstance(node, ast.ExceptHandler) and node.name:
                found[node.name] = None
            _bind(list(ast.iter_child_nodes(node)), found)


def _targets(node: ast.expr) -> list[str]:
    return [child.id for child in syntax.nodes(node) if isinstance(child, ast.Name)]


def _arguments(arguments: ast.arguments) -> list[str]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument.arg for argument in every if argument]


def _is_command(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__"`."""
    return isinstance(statement, ast.If) and "__name__" in {node.id for node in syntax.nodes(statement.test) if isinstance(node, ast.Name)}
