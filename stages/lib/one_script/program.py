"""One run as one program: the stages of the pipeline in their order, with the settings of params.yaml, and nothing that it does not need.

    settings -> numbers, untaken branches and checks gone -> what nothing refers to is gone

The stages are the pipeline's own `main()`s. What one process did alone, rank 0 does here while the others wait for a file.
"""

import ast
import copy
import dataclasses
import importlib
import inspect
from collections import Counter
from pathlib import Path

import numpy
import torch

from stages.lib import anatomy, averages, closure, params, stage
from stages.lib.one_script import cuts, flatten, fold, prune, syntax, wrap

STAGES = ("train", "ema", "prequant_ttt", "calibrate", "allocate", "quantize")
TOGETHER = ("train", "prequant_ttt", "calibrate")  # every process takes part
DRIVER = "stages.lib.one_script.run"
UNKNOWN = {("train", "seed"), ("train", "processes"), ("prequant_ttt", "processes"), ("calibrate", "processes")}  # differ from run to run
FOREIGN = (torch.Tensor, torch.nn.Module, torch.Generator, torch.cuda, torch.device, Path, torch, numpy.ndarray, numpy)
TRAINING_ONLY = {"multi_token_prediction"}
DATA = "artifacts/tokenize/"


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a stage's main()."""

    node: str
    variant: str | None
    settings: list[tuple[str, object]]  # section and instance


def calls(tree: dict) -> list[Call]:
    """The stages in order, each with its settings."""
    nodes: list[tuple[str, str | None]] = [(node, None) for node in STAGES]
    kind, _, run = tree["package"]["blob"].partition("/")
    params.require(kind in ("compress", "smallest"), f"package.blob is {tree['package']['blob']!r}; it takes compress/<run> | smallest")
    nodes += [("compress", name) for name in ([run] if kind == "compress" else tree["compress"]["runs"])]
    if kind == "smallest":
        nodes.append(("smallest", None))
    found = []
    for node, variant in nodes:
        classes = [parameter.annotation for parameter in inspect.signature(_main(node)).parameters.values()
                   if dataclasses.is_dataclass(parameter.annotation)]
        settings = [(cls.SECTION.format(variant=variant), params.section(tree, cls, variant=variant)) for cls in classes]
        found.append(Call(node, variant, settings))
    return found


def trimmed(tree: dict) -> dict:
    """Without what only shows something, or is compared and not taken: averages, snapshots and candidates that nobody asks for."""
    tree = copy.deepcopy(tree)
    average, kept = tree["ema"]["average"], tree["train"]["averages"]
    if average != "best":
        tree["ema"]["candidates"] = []
        kept["ema"] = [decay for decay in kept["ema"] if averages.name(decay) == average]
        kept["swa_every"] *= average == "swa"
        kept["lawa_every"] *= average == "lawa"
        if "power" not in average and not average.startswith("posthoc_"):
            kept["power"], kept["power_snapshots"] = [], 0
    return tree


def plugins(tree: dict) -> list[str]:
    """What is loaded by name: features, what codes the blob, and the evaluator."""
    runs = tree["compress"]["runs"]
    kind, _, run = tree["package"]["blob"].partition("/")
    found = [f"features/{name}" for name in tree["model"]["features"]]
    grouping = importlib.import_module("stages.lib.grouping")
    for name in [run] if kind == "compress" else runs:
        chosen = params.section(tree, grouping.Run, variant=name)
        found += chosen.plugins()
        found += [f"filters/{filter}" for group in chosen.groups.values() for filter, _ in group.filters]
    return list(dict.fromkeys([*found, f"evaluators/{tree['package']['evaluator']}"]))


@dataclasses.dataclass(frozen=True)
class Made:
    """A program, and of which module each of its statements is."""

    tree: ast.Module
    module_of: dict[int, str]

    def readable(self) -> str:
        return ast.unparse(self.tree) + "\n"

    def shares(self, code_bytes: int) -> list[tuple[str, str, str, int]]:
        """(part, folder, module, bytes): the bytes of the script by the length of what is left of each module."""
        lengths: Counter[str] = Counter()
        for statement in self.tree.body:
            lengths[self.module_of.get(id(statement), "settings and calls")] += len(ast.unparse(statement))
        sizes = anatomy.share(code_bytes, list(lengths.values()))
        return [("code", name.split(".")[1] if "." in name else name, name, size) for name, size in zip(lengths, sizes, strict=True)]


def script_bytes(tree: dict) -> int:
    """The size of the one script of a run, which does not depend on what is trained. `tree` is params.yaml, parsed."""
    return len(wrap.wrapped(wrap.shortened(build(tree).tree)).encode())


def build(tree: dict) -> Made:
    """The program of one run. `tree` is params.yaml, parsed and with a recipe applied."""
    params.require(tree["quantize"]["entropy"]["target_bytes"] != "auto", "quantize.entropy.target_bytes is auto, but the one script "
                   "cannot pack for trial; set it to the number in artifacts/fit/target.json")
    tree = trimmed(tree)
    made, named = calls(tree), plugins(tree)
    nodes = list(dict.fromkeys(call.node for call in made))
    program = flatten.Program(cuts.sources(tree))
    for node in nodes:
        program.add(f"stages.{node}.__main__")
    for name in named:
        program.add(f"stages.runtime.{name.replace('/', '.')}")
    program.add(DRIVER)
    _use_paths_of_this_run(program, nodes, tree)
    flat, module_of = program.flat(named)
    roots = _driver(program, made, tree)
    flat.body += roots
    known = _known(program, made, tree)
    _reduce(flat, roots, known, program)
    return Made(flat, module_of)


def _main(node: str):
    return importlib.import_module(f"stages.{node}.__main__").main


def _use_paths_of_this_run(program: flatten.Program, nodes: list[str], tree: dict) -> None:
    """Defaults of main() become paths: of the data, or of the folder that the run works in."""
    for node in nodes:
        module = program.modules[f"stages.{node}.__main__"]
        module.means |= {name: flatten.Internal(DRIVER, name) for name in ("DATA", "FOLDER")}
        main = next(part for part in module.tree.body if isinstance(part, ast.FunctionDef) and part.name == "main")
        variants = {argument.arg for argument in main.args.args if ast.unparse(argument.annotation) == "Variant"}
        for argument, default in zip(main.args.kwonlyargs, main.args.kw_defaults, strict=True):
            main.args.kw_defaults[main.args.kwonlyargs.index(argument)] = None
            path = default.value.replace("{variant}", "{run}") if variants else stage.fill(default.value, None, tree)
            is_data = path.startswith(DATA)
            path = path.removeprefix(DATA if is_data else "artifacts/")
            value = f"{'DATA' if is_data else 'FOLDER'} / {'f' * bool(variants)}{path!r}"
            main.body.insert(0, ast.parse(f"{argument.arg} = {value}").body[0])
        main.args.kwonlyargs, main.args.kw_defaults = [], []


def _driver(program: flatten.Program, made: list[Call], tree: dict) -> list[ast.stmt]:
    """The statements that run: each stage once, then the score."""
    def name(module: str, attribute: str) -> str:
        return program.name_of(flatten.Internal(module, attribute))

    stages = []
    for call in made:
        arguments = [repr(call.variant)] * (call.variant is not None) + [_expression(program, value, section)
                                                                         for section, value in call.settings]
        stages.append(f"{name(DRIVER, 'stage')}({call.node!r}, {call.node in TOGETHER}, {name(f'stages.{call.node}.__main__', 'main')}, "
                      f"{', '.join(arguments)})")
    evaluator = tree["package"]
    stages.append(f"{name(DRIVER, 'score')}({evaluator['blob']!r}, {evaluator['evaluator']!r}, {evaluator['options']!r})")
    return ast.parse("\n".join(stages)).body


def _expression(program: flatten.Program, value, section: str) -> str:
    """Source that makes the value."""
    if dataclasses.is_dataclass(value):
        cls = type(value)
        parts = []
        for field in dataclasses.fields(value):
            part = _expression(program, getattr(value, field.name), f"{section}.{field.name}")
            if (section, field.name) in UNKNOWN:
                part = program.name_of(flatten.Internal(DRIVER, "SEED" if field.name == "seed" else "SIZE"))
            parts.append(part)
        return f"{program.name_of(flatten.Internal(cls.__module__, cls.__qualname__))}({', '.join(parts)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_expression(program, item, section)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_expression(program, item, section)}," for item in value) + ")"
    return repr(value)


def _known(program: flatten.Program, made: list[Call], tree: dict) -> fold.Known:
    instances: dict[str, list] = {}

    def collect(value) -> None:
        if dataclasses.is_dataclass(value):
            cls = type(value)
            instances.setdefault(program.name_of(flatten.Internal(cls.__module__, cls.__qualname__)), []).append(value)
            for field in dataclasses.fields(value):
                collect(getattr(value, field.name))

    for call in made:
        for _, value in call.settings:
            collect(value)
    features = set(tree["model"]["features"])
    hooks = {part.name for name in features for part in syntax.nodes(program.modules[f"stages.runtime.features.{name}"].tree)
             if isinstance(part, ast.FunctionDef)}
    if features & {"sparse_gate", "output_gate", "dense_gate"}:
        hooks.add("gate")
    every = {path.stem for path in (closure.ROOT / "stages/runtime/features").glob("*.py")} - {"__init__"}
    unknown = {(type(value).__name__, leaf) for call in made for section, value in call.settings for path, leaf in UNKNOWN
               if path == section}
    loaded = {name: program.name_of(flatten.Internal(f"stages.runtime.{name.replace('/', '.')}", None)) for name in plugins(tree)}
    choices = {"method": {group["method"] for group in tree["quantize"]["groups"].values()}}
    return fold.Known({name: values[0] for name, values in instances.items() if len(values) == 1}, unknown, features, every, hooks,
                      TRAINING_ONLY, choices, {}, "", loaded, {}, set(), {},
                      tuple(f"{kind}/" for kind in ("codecs", "coders") if not any(name.startswith(kind) for name in loaded)),
                      _absent(tree["quantize"]))


def _absent(quantize: dict) -> frozenset[str]:
    """Arrays and words of a scheme that no matrix has, with these settings."""
    methods = {group["method"] for group in quantize["groups"].values()} | {part.get("method") for part in quantize["overrides"]}
    found = set()
    if "entropy" not in methods:
        found |= {"trellis", "gain", "row_steps", "column_steps", "step"} if quantize["scales_as"] == "float16" else {"trellis", "gain"}
    if "ternary" not in methods:
        found.add("unshrink")
    if not quantize["rotation"]["groups"]:
        found.add("rotation")
    if not quantize["low_rank"]["matrices"]:
        found |= {"left", "left_scales", "right", "right_scales"}
    return frozenset(found)


def _stored(flat: ast.Module) -> tuple[set[str], dict[str, object]]:
    """Attributes that are stored in one place of the program; and those of them that are a constant there, and are nobody else's."""
    nodes = syntax.nodes(flat)
    every = Counter(part.attr for part in nodes if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load))
    once = {name for name, count in every.items() if count == 1}
    taken = {part.name for part in nodes if isinstance(part, ast.FunctionDef)}
    taken |= {part.target.id for part in nodes if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)}
    taken |= {target.id for cls in nodes if isinstance(cls, ast.ClassDef) for part in cls.body if isinstance(part, ast.Assign)
              for target in part.targets if isinstance(target, ast.Name)}
    constants = {}
    for part in nodes:
        if isinstance(part, ast.Assign) and len(part.targets) == 1:
            for target, value in fold.pairs(part.targets[0], part.value):
                if isinstance(target, ast.Attribute) and target.attr in once - taken and isinstance(value, ast.Constant) and not any(
                        hasattr(cls, target.attr) for cls in FOREIGN):
                    constants[target.attr] = value.value
    return once, constants


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


def _arguments(flat: ast.Module) -> dict[str, dict[str, object]]:
    """By function or class: arguments that are the same constant in every call. Only of those that are never passed around."""
    defined = {part.name: part for part in flat.body if isinstance(part, ast.FunctionDef | ast.ClassDef)}
    nodes = syntax.nodes(flat)
    called = {id(part.func) for part in nodes if isinstance(part, ast.Call)}
    passed = {part.id for part in nodes if isinstance(part, ast.Name) and id(part) not in called}
    found: dict[str, list[dict]] = {}
    for part in nodes:
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in defined.keys() - passed:
            found.setdefault(part.func.id, []).append(_given(part, defined[part.func.id]))
    return {name: {key: value for key, value in given[0].items() if all(
        key in other and type(other[key]) is type(value) and other[key] == value for other in given)} for name, given in found.items()}


def _given(call: ast.Call, definition: ast.FunctionDef | ast.ClassDef) -> dict[str, object]:
    """Constants by argument in one call; nothing where it has stars."""
    if isinstance(definition, ast.ClassDef):
        init = next((part for part in definition.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
        names, arguments = ([argument.arg for argument in init.args.args][1:], init.args) if init else ([], None)
    else:
        names, arguments = [argument.arg for argument in definition.args.args], definition.args
    if arguments is None or any(isinstance(value, ast.Starred) for value in call.args) or any(not keyword.arg for keyword in call.keywords):
        return {}
    values = dict(zip(names, call.args, strict=False)) | {keyword.arg: keyword.value for keyword in call.keywords}
    defaults = dict(zip(names[len(names) - len(arguments.defaults):], arguments.defaults, strict=False))
    defaults |= {argument.arg: value for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value}
    return {name: ast.literal_eval(value) for name, value in (defaults | values).items() if _is_literal(value)}


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Tuple | ast.List) and all(map(_is_literal, node.elts)))


def _reduce(flat: ast.Module, roots: list[ast.stmt], known: fold.Known, program: flatten.Program) -> None:
    """Fold, prune and fold again until nothing changes; in place."""
    def name(module: str, attribute: str) -> set[str]:
        key = (module, attribute)
        return {program.names[key]} if key in program.names else set()

    checks = prune.Checks(requires={flat for (_, own), flat in program.names.items() if own in ("require", "_require")}, bars={"tqdm"})
    checks.visit(flat)
    loader = name(flatten.PLUGIN, "load")
    prune.unreachable(flat, roots)  # half of it, before it is read again and again
    changed = True
    while changed:
        once, constants = _stored(flat)
        folding = fold.Fold(dataclasses.replace(known, tables=_tables(flat), arguments=_arguments(flat), loader=min(loader, default=""),
                                                once=once, constants=constants))
        folding.visit(flat)
        ast.fix_missing_locations(flat)
        changed = folding.changed
        empty, methods = _empty(flat)
        dead = prune.Dead(empty, methods)
        dead.visit(flat)
        changed |= dead.changed
        changed |= prune.unreachable(flat, roots)
    Plain().visit(flat)
    _drop_fields(flat, roots)
    prune.unreachable(flat, roots)
    ast.fix_missing_locations(flat)


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


def source_files(tree: dict) -> list[Path]:
    """The files of which the program is made, to lie readable beside it."""
    modules = [f"stages.{call.node}.__main__" for call in calls(tree)]
    return closure.paths(*dict.fromkeys([*modules, *(f"stages.runtime.{name.replace('/', '.')}" for name in plugins(tree)), DRIVER]))
