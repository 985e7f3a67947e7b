"""The one script without what calls and objects carry: what is left does what the program did."""

import ast
import builtins
import symtable

import pytest

from stages.lib import params
from stages.lib.one_script import calls, fold, index, program, reduce, settled
from stages.recipes import files
from tests.conftest import ROOT

NOTHING = fold.Known({}, set(), set(), set(), set(), set(), {}, {}, "", {}, {}, set(), {}, (), frozenset())
HEAD = "import contextlib\nimport dataclasses\nfrom dataclasses import dataclass, replace\nlog = []\n"
PROGRAMS = {
    "arguments by name, some of them for nobody": """
def scale(x, *, by, section, unused=0):
    return x * by
def main(x):
    log.append(scale(x, by=3, section='train') + scale(section='train', x=x + 1, by=4, unused=2))
main(5)
""",
    "arguments that do something are computed, in their order": """
def say(word):
    log.append(word)
    return word
def f(*, first, second, third):
    return first + third
def main():
    log.append(f(third=say('c'), first=say('a'), second=say('b')))
main()
""",
    "functions that keep their argument for later": """
class Layer:
    def __init__(self, name):
        self.tag = name
    def speaker(self):
        return make(self)
def make(layer):
    return lambda: layer.tag
def main():
    layers = [Layer(name) for name in 'abc']
    for said in {layer.tag: make(layer) for layer in layers}.values():
        log.append(said())
    for said in [layer.speaker() for layer in layers]:
        log.append(said())
main()
""",
    "a nested function that is called like a method": """
class Run:
    def limit(self, bits):
        return 2 ** bits
def main(run):
    def limit(bits):
        return -bits
    log.append((run.limit(6), limit(3), limit(4)))
main(Run())
""",
    "what is inlined does not take the names of where it goes": """
def normal(values):
    total = sum(values)
    x = [value / total for value in values]
    return x
def main(total, x):
    y = normal(x)
    log.append((total, x, y))
main(7, [1.0, 3.0])
""",
    "an attribute that a foreign class has, too": """
class Record:
    def __init__(self, items):
        self.items = items
        self.never = 1
def main(records):
    log.extend([record.items for record in records] + list({'a': 1}.items()))
main([Record(3), Record(4)])
""",
    "fields that nobody reads, and a class variable": """
from typing import ClassVar
@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = 'train'
    seed: 0
    unused: 0
    rate: 0 = 0.5
def main(settings):
    other = replace(settings, rate=settings.rate / 2)
    log.append((settings.seed, settings.rate, other.rate))
main(Settings(1, 2))
""",
    "a field is not a constant if something stores another value": """
@dataclass
class Run:
    step: 0 = 0
    kind: 0 = 'plain'
def advance(run):
    run.step += 1
    if run.step > 2:
        run.kind = 'late'
def main(run):
    for _ in range(4):
        advance(run)
        log.append((run.step, run.kind))
main(Run())
""",
    "a method that only an heir has, and one that both have": """
class Base:
    def __init__(self, size):
        self.size_of = size
    def chunks(self):
        return 'base'
    def learn(self):
        log.append(f'base {self.size_of}')
class Heir(Base):
    def __init__(self, size, *, more):
        super().__init__(size)
        self.more = more
    def chunks(self):
        return 'heir' * self.more
    def learn(self):
        super().learn()
        log.append('heir')
def main(one):
    log.append(one.chunks())
    one.learn()
main(Heir(3, more=2))
""",
    "options that are passed on": """
def inner(a, *, b, c=3):
    return (a, b, c)
class Outer:
    def __init__(self, a, **options):
        self.result = inner(a, **options)
def main():
    log.append(Outer(1, b=2).result)
main()
""",
    "a block that is always the same block": """
@contextlib.contextmanager
def noted(word):
    log.append(word)
    yield
def silent():
    return contextlib.nullcontext()
def main(is_loud):
    with silent() if is_loud else contextlib.nullcontext():
        log.append('inside')
    with noted('begin'):
        log.append('inside again')
main(True)
""",
    "what a loop stores is read after it": """
def step(total, n):
    total += n
    return total
def main():
    total = 0
    for n in range(3):
        total = step(total, n)
    log.append(total)
main()
""",
}


def ran(source: str) -> list:
    names: dict = {}
    exec(compile(source, "program", "exec"), names)
    return names["log"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_left_does_the_same(name):
    source = HEAD + PROGRAMS[name]
    tree = ast.parse(source)
    reduce.slim(tree, [tree.body[3], tree.body[-1]], NOTHING)  # the log, and the call of main
    expected = ran(source)
    assert expected and ran(ast.unparse(tree)) == expected


def test_names_of_arguments_and_attributes_become_short_and_those_of_weights_stay():
    tree = ast.parse("from torch import nn\nclass Net(nn.Module):\n    def __init__(self, *, width_of_all):\n        super().__init__()\n"
                     "        self.projection_out = nn.Linear(width_of_all, width_of_all + 1)\n        self.own_config = width_of_all\n"
                     "class Plan:\n    def __init__(self, first_target):\n        self.first_target = first_target\n"
                     "def main(net, plan):\n    return net.projection_out, net.own_config, plan.first_target\n"
                     "main(Net(width_of_all=input()), Plan(input()))")
    reduce.slim(tree, [tree.body[-1]], NOTHING)
    text = ast.unparse(tree)
    assert "self.projection_out" in text and ".first_target" not in text and "Net(input())" in text


def test_only_what_is_known_whole_is_changed():
    tree = ast.parse("def a(x, y): return x\ndef b(x, y): return x\nclass C:\n    def own(self, x, y): return x\n"
                     "    def append(self, x, y): return x\n"
                     "    def given(self, x, y): return x\n[a, C().given]\nb(1, 2)\nC().own(1, 2)\nC().append(1, 2)\n[].append(3)\n")
    here = index.Index(tree)
    assert set(here.known_functions()) == {"b"} and set(here.known_methods()) == {"own"}
    assert calls.constants(here) == {"b": {"x": 1, "y": 2}, ".own": {"x": 1, "y": 2}}


def test_a_feature_that_is_a_function_has_the_hooks_of_what_it_makes():
    assert settled.used_hooks(["smear_gate", "ln_scale"]) == ["embed", "stream", "normalised"]
    assert {"bias", "weight", "in_features", "update", "append"} <= index.foreign()  # some only in annotations of their classes


def undefined(source: str) -> set[str]:
    """Names that nothing in the program defines."""
    top = symtable.symtable(source, "program", "exec")
    defined = {name.get_name() for name in top.get_symbols() if name.is_assigned() or name.is_imported() or name.is_namespace()}
    defined |= {*dir(builtins), "__file__"}
    found, waiting = set(), [top]
    while waiting:
        scope = waiting.pop()
        waiting += scope.get_children()
        found |= {name.get_name() for name in scope.get_symbols() if name.is_referenced()
                  and (name.is_global() or scope is top) and name.get_name() not in defined}
    return found


def too_early(tree: ast.Module) -> set[str]:
    """Names that the module reads while it is read itself, before it has them."""
    known, found = set(dir(builtins)), set()
    for statement in tree.body:
        parts = [statement]
        if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.If | ast.With):
            functions = [part for part in (statement, *statement.body) if isinstance(part, ast.FunctionDef)]
            parts = [value for part in functions for value in (*part.args.defaults, *part.args.kw_defaults) if value]
            parts += getattr(statement, "bases", [])
        own = {part.id for one in parts for part in ast.walk(one) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        found |= {part.id for one in parts for part in ast.walk(one) if isinstance(part, ast.Name)} - known - own
        known |= own | {getattr(statement, "name", "")} | {part.name for part in ast.walk(statement) if isinstance(part, ast.FunctionDef)}
        known |= {alias.asname or alias.name for part in ast.walk(statement) if isinstance(part, ast.Import | ast.ImportFrom)
                  for alias in part.names}
    return found


def unknown_attributes(tree: ast.Module) -> set[str]:
    """Attributes that are read, and neither anybody's of ours nor of a package."""
    every = list(ast.walk(tree))
    ours = {part.attr for part in every if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)}
    for cls in [part for part in every if isinstance(part, ast.ClassDef)]:
        ours |= {part.name for part in cls.body if isinstance(part, ast.FunctionDef)}
        ours |= {part.target.id for part in cls.body if isinstance(part, ast.AnnAssign)}
        ours |= {target.id for part in cls.body if isinstance(part, ast.Assign) for target in part.targets}
    spaces = [part for part in every if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "SimpleNamespace"]
    ours |= {keyword.arg for part in spaces for keyword in part.keywords}
    outside = {alias.asname or alias.name for part in every if isinstance(part, ast.Import | ast.ImportFrom) for alias in part.names}

    def root(node: ast.expr) -> str | None:
        while isinstance(node, ast.Attribute):
            node = node.value
        return getattr(node, "id", None)

    return {part.attr for part in every if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load)
            and root(part) not in outside} - ours - index.foreign()


FEW = ("pr1493", "pr1855")


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.recipes)
                                          for name in ("default", *files.stacks()) if name not in FEW)])
def test_every_name_of_a_script_is_defined_also_where_only_a_gpu_comes(name):
    tree = params.read(ROOT / "params.yaml")
    made = program.build(tree if name == "default" else files.applied(files.values(name, tree), tree))
    assert not undefined(made.readable()) and not too_early(made.tree)
    theirs = {"param_groups", "flash_attn_func", "flash_attn_varlen_func", "varlen_attn", "element_ty"}  # torch, flash_attn and Triton
    hooks = {"initialise", "stored_shape", "EXTRA", "ON_ARRAYS"}  # of plug-ins, which need not have them
    assert unknown_attributes(made.tree) <= theirs | hooks
