"""Arguments: those that nobody reads go, those that are the same in every call become constants, and the others lose their names.

    def f(x, *, bits, section): ...         def f(x, /): ...            with f(w, bits=6, section="train") everywhere
    def f(x, **options): g(x, **options)    def f(x, a): g(x, a=a)      with f(w, a=1) everywhere

Only where every call is known (`index`). What an argument is worth is computed, so it only goes if computing it changes nothing.
"""

import ast
from dataclasses import dataclass

from stages.lib.one_script import index, prune
from stages.lib.one_script.syntax import copied, nodes


@dataclass
class Signature:
    """The arguments of all definitions of one name, which must be the same, and what each call gives for each; None is left out."""

    names: list[str]
    defaults: dict[str, ast.expr]
    given: list[dict[str, ast.expr]]


def signature(known: index.Known) -> Signature | None:
    """None where definitions differ, or a call has stars."""
    found = [_arguments(part, known.takes_self) for part in known.definitions]
    names, defaults = found[0]
    if any(other[0] != names or {name: ast.dump(value) for name, value in other[1].items()} != {
            name: ast.dump(value) for name, value in defaults.items()} for other in found[1:]):
        return None
    given = []
    for call in known.calls:
        if any(isinstance(part, ast.Starred) for part in call.args) or any(not keyword.arg for keyword in call.keywords):
            return None
        given.append(dict(zip(names, call.args, strict=False)) | {keyword.arg: keyword.value for keyword in call.keywords})
        if len(call.args) > len(names) or not given[-1].keys() <= set(names):
            return None
    return Signature(names, defaults, given)


def _arguments(node: ast.FunctionDef, takes_self: bool) -> tuple[list[str], dict[str, ast.expr]]:
    positional = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    defaults = dict(zip(positional[len(positional) - len(node.args.defaults):], node.args.defaults, strict=True))
    defaults |= {argument.arg: value for argument, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value}
    return [*positional[takes_self:], *(argument.arg for argument in node.args.kwonlyargs)], defaults


def constants(here: index.Index) -> dict[str, dict[str, object]]:
    """By function, .method or class: arguments that are the same constant in every call."""
    found = {}
    methods = {f".{name}": known for name, known in here.known_methods().items()}
    for every in (here.known_functions(), methods, here.known_constructors()):
        for name, known in every.items():
            own = signature(known)
            if own is None or not own.given:
                continue
            values = {}
            for argument in own.names:
                given = [each.get(argument, own.defaults.get(argument)) for each in own.given]
                if all(value is not None and is_literal(value) for value in given) and len({ast.dump(value) for value in given}) == 1:
                    values[argument] = ast.literal_eval(given[0])
            if values:
                found[name] = values
    return found


def returned(tree: ast.Module) -> dict[str, object]:
    """By function: the constant that is all it returns."""
    found = {}
    for part in tree.body:
        if isinstance(part, ast.FunctionDef) and not part.decorator_list and len(part.body) == 1:
            (only,) = part.body
            value = getattr(only, "value", None) or ast.Constant(None)
            if isinstance(only, ast.Return | ast.Pass) and isinstance(value, ast.Constant):
                found[part.name] = value.value
    return found


def fields_given(here: index.Index) -> dict[str, list[ast.expr]]:
    """By field of a dataclass: what every call gives for it, or its default. Of fields that several classes have, of all of them."""
    found: dict[str, list[ast.expr]] = {}
    replaced = {keyword.arg for name in here.calls for call in here.calls[name] for keyword in call.keywords if "replace" in name}
    unknown = here.words | replaced
    for name, cls in here.classes.items():
        if not index.is_dataclass(cls):
            continue
        fields = {part.target.id: part.value for part in index.fields(cls)}
        stars = any(isinstance(part, ast.Starred) for call in here.calls.get(name, []) for part in call.args) or any(
            not keyword.arg for call in here.calls.get(name, []) for keyword in call.keywords)
        if name in here.passed or stars:
            unknown |= fields.keys()
            continue
        for call in here.calls.get(name, []):
            given = dict(zip(fields, call.args, strict=False)) | {keyword.arg: keyword.value for keyword in call.keywords}
            for field, default in fields.items():
                found.setdefault(field, []).append(given.get(field, default))
    return {name: values for name, values in found.items() if name not in unknown and None not in values}


def is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def shorten(here: index.Index) -> bool:
    """Drop, in place, arguments and fields that nobody reads. Returns whether anything went."""
    gone = False
    for known in here.known():
        own = signature(known)
        if own is None:
            continue
        read = {part.id for node in known.definitions for part in nodes(node) if isinstance(part, ast.Name)}
        dead = {name for name in own.names if name not in read
                and all(prune.is_pure(given[name]) for given in own.given if name in given)}
        if dead:
            gone = True
            for call, given in zip(known.calls, own.given, strict=True):
                _drop(call, [value for name, value in given.items() if name in dead])
            for node in known.definitions:
                _undefine(node.args, dead)
    return gone | _fields(here)


def _drop(call: ast.Call, values: list[ast.expr]) -> None:
    gone = set(map(id, values))
    call.args = [value for value in call.args if id(value) not in gone]
    call.keywords = [keyword for keyword in call.keywords if id(keyword.value) not in gone]


def _undefine(arguments: ast.arguments, dead: set[str]) -> None:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    kept = [(argument, value) for argument, value in zip(positional, defaults, strict=True) if argument.arg not in dead]
    arguments.posonlyargs, arguments.args = [], [argument for argument, _ in kept]
    arguments.defaults = [value for _, value in kept if value]
    named = [pair for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if pair[0].arg not in dead]
    arguments.kwonlyargs, arguments.kw_defaults = [argument for argument, _ in named], [value for _, value in named]


def mark(here: index.Index) -> None:
    """Mark the calls that change nothing: of functions that only compute, and of classes whose objects hold what they are given."""
    for name, cls in here.classes.items():
        if _holds(cls, here):
            for call in here.calls.get(name, []):
                call.changes_nothing = True
    for known in [*here.known_functions().values(), *here.known_methods().values()]:
        if all(not node.decorator_list and _computes(node) for node in known.definitions):
            for call in known.calls:
                call.changes_nothing = True


def _holds(cls: ast.ClassDef, here: index.Index) -> bool:
    own = {part.name: part for part in cls.body if isinstance(part, ast.FunctionDef)}
    if "__init__" in own:
        return all(isinstance(part, ast.Pass | ast.Assign) and prune.is_pure(getattr(part, "value", ast.Constant(None)))
                   for part in own["__init__"].body)
    if cls.bases:
        return len(cls.bases) == 1 and (base := here.classes.get(ast.unparse(cls.bases[0]))) is not None and _holds(base, here)
    return index.is_dataclass(cls) and "__post_init__" not in own


def _computes(node: ast.FunctionDef) -> bool:
    """Whether a function stores nothing but in names of its own, and calls only what does so too."""
    inside = nodes(node)
    return not any((isinstance(part, ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load))
                   or isinstance(part, ast.Yield | ast.YieldFrom | ast.Global | ast.Nonlocal | ast.AugAssign | ast.Import | ast.With)
                   for part in inside) and all(prune.is_pure(part) for part in inside if isinstance(part, ast.Call))


def _fields(here: index.Index) -> bool:
    """Fields of dataclasses that nobody reads, with their values in the calls that make one."""
    read = {part.attr for part in here.every if isinstance(part, ast.Attribute)} | here.words  # what is only stored goes first
    read |= {keyword.arg for name in ("replace", "dataclasses_replace") for call in here.calls.get(name, []) for keyword in call.keywords}
    gone = False
    for name, cls in here.classes.items():
        if not index.is_dataclass(cls) or name in here.passed or any(
                isinstance(part, ast.Call) and ast.unparse(part.func).rpartition(".")[2] in ("fields", "asdict") for part in nodes(cls)):
            continue
        fields = index.fields(cls)
        names = [part.target.id for part in fields]
        calls = here.calls.get(name, [])
        if any(isinstance(part, ast.Starred) for call in calls for part in call.args) or any(
                not keyword.arg for call in calls for keyword in call.keywords):
            continue
        given = [dict(zip(names, call.args, strict=False)) | {keyword.arg: keyword.value for keyword in call.keywords} for call in calls]
        dead = {each for each in names if each not in read and all(prune.is_pure(values[each]) for values in given if each in values)}
        for call, values in zip(calls, given, strict=True):
            _drop(call, [value for each, value in values.items() if each in dead])
        cls.body = [part for part in cls.body if part not in fields or part.target.id not in dead] or [ast.Pass()]
        gone |= bool(dead)
    return gone


def positional(tree: ast.Module) -> None:
    """All arguments by place, in place: names of arguments may then become letters."""
    for known in index.Index(tree).known():
        own = signature(known)
        if own is None or any(not is_literal(value) and not isinstance(value, ast.Name) for value in own.defaults.values()):
            continue
        required = [name for name in own.names if name not in own.defaults or all(name in given for given in own.given)]
        order = required + [name for name in own.names if name not in required]
        if any(_crosses(given, order) for given in own.given):
            continue
        for call, given in zip(known.calls, own.given, strict=True):
            last = max((order.index(name) + 1 for name in given), default=0)
            call.args, call.keywords = [given[name] if name in given else copied(own.defaults[name]) for name in order[:last]], []
        for node in known.definitions:
            every = {argument.arg: argument for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            first = [argument for name, argument in every.items() if name not in order]  # self
            node.args.posonlyargs, node.args.args = first + [every[name] for name in order], []
            node.args.defaults = [own.defaults[name] for name in order if name not in required]
            node.args.kwonlyargs, node.args.kw_defaults = [], []


def _crosses(given: dict[str, ast.expr], order: list[str]) -> bool:
    """Whether another order of the arguments would compute in another order what must be computed in this one."""
    busy = [name for name, value in given.items() if not prune.is_pure(value)]
    return busy != sorted(busy, key=order.index)


def spread(here: index.Index) -> bool:
    """f(**{"a": 1}) -> f(a=1), and **options of a function that only passes them on -> what the calls give, in place."""
    changed = False
    for call in [part for part in here.every if isinstance(part, ast.Call)]:
        for keyword in [part for part in call.keywords if not part.arg and isinstance(part.value, ast.Dict)]:
            if all(isinstance(key, ast.Constant) for key in keyword.value.keys):
                at = call.keywords.index(keyword)
                call.keywords[at:at + 1] = [ast.keyword(key.value, value) for key, value in zip(
                    keyword.value.keys, keyword.value.values, strict=True)]
                changed = True
    for name, node in {**here.functions, **{cls: init for cls, part in here.classes.items() for init in part.body
                                            if isinstance(init, ast.FunctionDef) and init.name == "__init__"}}.items():
        calls = here.calls.get(name, [])
        if node.args.kwarg is None or name in here.passed or not calls or any(
                not keyword.arg for call in calls for keyword in call.keywords):
            continue
        own = {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        more = [[keyword.arg for keyword in call.keywords if keyword.arg not in own] for call in calls]
        uses = [part for part in nodes(node) if isinstance(part, ast.Name) and part.id == node.args.kwarg.arg]
        passing = [(part, keyword) for part in nodes(node) if isinstance(part, ast.Call) for keyword in part.keywords
                   if not keyword.arg and keyword.value in uses]
        if len(passing) == len(uses) and all(set(each) == set(more[0]) for each in more):
            for part, keyword in passing:
                at = part.keywords.index(keyword)
                part.keywords[at:at + 1] = [ast.keyword(each, ast.Name(each, ast.Load())) for each in more[0]]
            node.args.kwarg = None
            node.args.kwonlyargs += [ast.arg(each) for each in more[0]]
            node.args.kw_defaults += [None] * len(more[0])
            changed = True
    return changed
