"""Who defines and who calls what in the one module, where all of it is known: every definition of a name, and every call of it.

A function is known if its name is only ever called; a method if its name is none of a foreign class's, and is only ever called on
something; a class if it is only ever called or inherited from. Of those all arguments are at hand.
"""

import ast
import builtins
import importlib
import warnings
from dataclasses import dataclass, field
from functools import cache

from stages.lib.one_script.syntax import nodes

FOREIGN = (
    "builtins", "pathlib", "threading", "concurrent.futures", "subprocess", "hashlib", "re", "zlib", "struct", "itertools", "functools",
    "collections", "dataclasses", "types", "contextlib", "json", "math", "os", "random", "shutil", "tempfile", "time", "inspect", "queue",
    "numpy", "numpy.random", "numpy.linalg", "numpy.fft", "numpy.dtypes", "torch", "torch.nn", "torch.nn.functional", "torch.nn.init",
    "torch.nn.utils", "torch.nn.attention", "torch.optim", "torch.optim.lr_scheduler", "torch.cuda", "torch.distributed", "torch.autograd",
    "torch.linalg", "torch.utils.checkpoint", "torch.utils.data", "torch.compiler", "torch.library", "torch.return_types", "torch.backends",
    "torch.distributed.tensor", "safetensors", "brotli", "zstandard", "lzma", "sentencepiece")
DECORATORS = ("contextlib.contextmanager", "torch.no_grad()", "torch.inference_mode()", "staticmethod", "functools.cache")


@dataclass(frozen=True)
class Known:
    """A name with all its definitions (several methods may share one) and all its calls. `takes_self`: the first argument is not given."""

    definitions: list[ast.FunctionDef]
    calls: list[ast.Call]
    takes_self: bool


@dataclass
class Index:
    """Read off a program once; stale as soon as the program changes."""

    tree: ast.Module
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    methods: dict[str, list[ast.FunctionDef]] = field(default_factory=dict)
    calls: dict[str, list[ast.Call]] = field(default_factory=dict)        # by the name that is called
    calls_on: dict[str, list[ast.Call]] = field(default_factory=dict)     # by the attribute that is called
    passed: set[str] = field(default_factory=set)                         # names that are more than called
    passed_on: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)                          # strings

    def __post_init__(self):
        self.every = nodes(self.tree)
        for part in self.tree.body:
            if isinstance(part, ast.FunctionDef):
                self.functions[part.name] = part
            elif isinstance(part, ast.ClassDef):
                self.classes[part.name] = part
                for inner in part.body:
                    if isinstance(inner, ast.FunctionDef):
                        self.methods.setdefault(inner.name, []).append(inner)
        fine = {id(base) for cls in self.classes.values() for base in cls.bases}
        fine |= {id(inner) for part in self.every if isinstance(part, ast.arg | ast.AnnAssign) and part.annotation
                 for inner in nodes(part.annotation)}
        for part in self.every:
            if isinstance(part, ast.Call):
                fine.add(id(part.func))
                if isinstance(part.func, ast.Name):
                    self.calls.setdefault(part.func.id, []).append(part)
                elif isinstance(part.func, ast.Attribute):
                    self.calls_on.setdefault(part.func.attr, []).append(part)
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                self.words.add(part.value)
        for part in self.every:
            if id(part) in fine:
                continue
            if isinstance(part, ast.Name):
                self.passed.add(part.id)
            elif isinstance(part, ast.Attribute):
                self.passed_on.add(part.attr)

    def known_functions(self) -> dict[str, Known]:
        return {name: Known([part], self.calls.get(name, []), False) for name, part in self.functions.items()
                if name not in self.passed and usual(part)}

    def known_methods(self) -> dict[str, Known]:
        found = {}
        for name, parts in self.methods.items():
            statics = {"staticmethod" in map(ast.unparse, part.decorator_list) for part in parts}
            if (name.startswith("__") or name in self.passed_on | self.words | foreign() or not all(map(usual, parts)) or len(statics) > 1):
                continue
            found[name] = Known(parts, self.calls_on.get(name, []), not statics.pop())
        return found

    def known_constructors(self) -> dict[str, Known]:
        """By class. Those that a class without a constructor of its own inherits, or that several would share, are left alone."""
        found = {}
        for name, cls in self.classes.items():
            own = [part for part in cls.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            heirs = [other for other in self.classes.values() if name in {ast.unparse(base) for base in other.bases}]
            inits = [next((part for part in heir.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
                     for heir in heirs]
            if not own or name in self.passed or not usual(own[0]) or None in inits:
                continue
            above = [part for init in inits for part in nodes(init) if isinstance(part, ast.Call)
                     and isinstance(part.func, ast.Attribute) and part.func.attr == "__init__"]
            found[name] = Known(own, self.calls.get(name, []) + above, True)
        return found

    def known(self) -> list[Known]:
        return [*self.known_functions().values(), *self.known_methods().values(), *self.known_constructors().values()]


def usual(node: ast.FunctionDef) -> bool:
    """Whether its signature may be changed: no stars, and no decorator but those that leave it as it is."""
    return node.args.vararg is None and node.args.kwarg is None and all(ast.unparse(part) in DECORATORS for part in node.decorator_list)


def is_module_class(cls: ast.ClassDef) -> bool:
    """Whether it is a network: what it stores may be a weight, under its name."""
    return any(ast.unparse(base).rpartition(".")[2] == "Module" for base in cls.bases)


def fields(cls: ast.ClassDef) -> list[ast.AnnAssign]:
    """Of a dataclass, in their order."""
    return [part for part in cls.body if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part.annotation)]


def is_dataclass(cls: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(part) for part in cls.decorator_list)


@cache
def foreign() -> frozenset[str]:
    """Names of attributes of Python's and the packages' modules and of the classes in them."""
    found = set(dir(builtins))
    with warnings.catch_warnings(action="ignore"):  # deprecated names are names too
        for name in FOREIGN:
            for attribute, value in vars(importlib.import_module(name)).items():
                found.add(attribute)
                if isinstance(value, type):
                    said = getattr(value, "__annotations__", None)  # what objects get when they are made
                    found |= {*dir(value), *(said if isinstance(said, dict) else ())}
    return frozenset(found)
