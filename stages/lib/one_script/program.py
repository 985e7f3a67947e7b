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

import torch

from stages.lib import anatomy, averages, closure, params, stage
from stages.lib.one_script import cuts, flatten, fold, reduce, settled, wrap
from stages.runtime.model.config import ModelConfig

STAGES = ("train", "ema", "prequant_ttt", "calibrate", "allocate", "quantize")
TOGETHER = ("train", "prequant_ttt", "calibrate")  # every process takes part
DRIVER = "stages.lib.one_script.run"
UNKNOWN = {("train", "seed"), ("train", "processes"), ("prequant_ttt", "processes"), ("calibrate", "processes")}  # differ from run to run
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
    nodes: list[tuple[str, str | None]] = [(node, None) for node in STAGES if node not in settled.left_out(tree)]
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


def used_groups(tree: dict) -> set[str]:
    """Those of the quantizer's groups that a parameter of the network is in."""
    groups = importlib.import_module("stages.lib.quant.groups")
    model = importlib.import_module("stages.runtime.model.gpt")
    with torch.device("meta"):
        net = model.GPT(ModelConfig(vocabulary_size=256, **{
            name: value for name, value in tree["model"].items() if name != "attention_backend"}))
    return set(groups.by_parameter(net).values())


def _without_groups(made: list[Call], groups: set[str]) -> list[Call]:
    """The calls, with None for groups of the quantizer that no matrix is in."""
    out = []
    for call in made:
        settings = [(section, dataclasses.replace(value, groups=dataclasses.replace(value.groups, **{
            part.name: None for part in dataclasses.fields(value.groups) if part.name not in groups})))
            if section == "quantize" else (section, value) for section, value in call.settings]
        out.append(dataclasses.replace(call, settings=settings))
    return out


def _merged(values: list):
    """What several instances of one class of settings have in common, in one; the rest is UNKNOWN."""
    found = object.__new__(type(values[0]))
    for part in dataclasses.fields(found):
        every = [getattr(value, part.name) for value in values]
        same = all(type(value) is type(every[0]) and value == every[0] for value in every)
        object.__setattr__(found, part.name, every[0] if same else fold.UNKNOWN)
    return found


def script_bytes(tree: dict) -> int:
    """The size of the one script of a run, which does not depend on what is trained. `tree` is params.yaml, parsed."""
    return len(wrap.wrapped(wrap.shortened(build(tree).tree)).encode())


def build(tree: dict) -> Made:
    """The program of one run. `tree` is params.yaml, parsed and with a recipe applied."""
    params.require(tree["quantize"]["entropy"]["target_bytes"] != "auto", "quantize.entropy.target_bytes is auto, but the one script "
                   "cannot pack for trial; set it to the number in artifacts/fit/target.json")
    tree = trimmed(tree)
    made, every = calls(tree), plugins(tree)
    named = [name for name in every if not (name.startswith("features/") and settled.has_fixed_features(tree))]
    nodes = list(dict.fromkeys(call.node for call in made))
    groups = used_groups(tree)
    program = flatten.Program(cuts.sources(tree, groups))
    for node in nodes:
        program.add(f"stages.{node}.__main__")
    for name in every:
        program.add(f"stages.runtime.{name.replace('/', '.')}")
    program.add(DRIVER)
    _use_paths_of_this_run(program, nodes, tree)
    flat, module_of = program.flat(named)
    made = _without_groups(made, groups)
    roots = _driver(program, made, tree)
    flat.body += roots
    known = _known(program, made, tree, named)
    reduce.run(flat, roots, known, program)
    return Made(flat, module_of)


def _main(node: str):
    return importlib.import_module(f"stages.{node}.__main__").main


def _use_paths_of_this_run(program: flatten.Program, nodes: list[str], tree: dict) -> None:
    """Defaults of main() become paths: of the data, or of the folder that the run works in."""
    instead = {path: other for paths in settled.left_out(tree).values() for path, other in paths.items()}
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
            while path in instead:
                path = instead[path]
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
        alone = call.node not in TOGETHER
        stages.append(f"with {name(DRIVER, 'stage')}({call.node!r}, {not alone}):\n"
                      + f"    if not {name(DRIVER, 'RANK')}:\n    " * alone
                      + f"    {name(f'stages.{call.node}.__main__', 'main')}({', '.join(arguments)})")
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


def _known(program: flatten.Program, made: list[Call], tree: dict, named: list[str]) -> fold.Known:
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
    config = object.__new__(ModelConfig)
    for part in dataclasses.fields(ModelConfig):
        object.__setattr__(config, part.name, tree["model"].get(part.name, fold.UNKNOWN) if part.name != "features" else fold.UNKNOWN)
    vars(config)["head_width"] = config.width // config.num_heads
    instances[program.name_of(flatten.Internal(ModelConfig.__module__, "ModelConfig"))] = [config]
    if tree["quantize"]["overrides"]:  # which make others of them
        instances.pop(program.name_of(flatten.Internal("stages.lib.quant.settings", "Group")), None)
    features = set(tree["model"]["features"])
    hooks = set(settled.used_hooks(features))
    every = {path.stem for path in (closure.ROOT / "stages/runtime/features").glob("*.py")} - {"__init__"}
    unknown = {(type(value).__name__, leaf) for call in made for section, value in call.settings for path, leaf in UNKNOWN
               if path == section}
    loaded = {name: program.name_of(flatten.Internal(f"stages.runtime.{name.replace('/', '.')}", None)) for name in named}
    choices = {"method": {group["method"] for group in tree["quantize"]["groups"].values()}}
    merged = {name: _merged(values) if len(values) > 1 else values[0] for name, values in instances.items()}
    return fold.Known(merged, unknown, features, every, hooks,
                      TRAINING_ONLY, choices, {}, "", loaded, {}, set(), {},
                      tuple(f"{kind}/" for kind in ("codecs", "coders") if not any(name.startswith(kind) for name in loaded)),
                      _absent(tree["quantize"]), names={
                          (type(value), leaf): program.name_of(flatten.Internal(DRIVER, "SEED" if leaf == "seed" else "SIZE"))
                          for call in made for section, value in call.settings for path, leaf in UNKNOWN if path == section}, config=config)


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


def source_files(tree: dict) -> list[Path]:
    """The files of which the program is made, to lie readable beside it."""
    modules = [f"stages.{call.node}.__main__" for call in calls(tree)]
    return closure.paths(*dict.fromkeys([*modules, *(f"stages.runtime.{name.replace('/', '.')}" for name in plugins(tree)), DRIVER]))
