"""Signatures, dvc.yaml, params.yaml and imports say the same; layers point down; every file can be read at a sitting."""

import ast
import importlib
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stages.lib.node import closure, params, stage
from stages.runtime.base import plugin
from tests.conftest import ROOT

DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = params.read(ROOT / "params.yaml")
NODES = list(DVC_YAML["stages"])
PYTHON = sorted((ROOT / "stages").rglob("*.py"))
PACKAGED = ("codecs", "coders", "filters")
BY_NAME = {  # modules that load others by name, and the packages from which they do
    "stages/train/__main__.py": ["stages.lib.tokens.loaders", "stages.train.techniques"],
    "stages/train/techniques/__init__.py": ["stages.train.techniques"],
    "stages/lib/quant/network.py": ["stages.lib.quant.methods"],
    "stages/lib/blob/bundle.py": [*map(plugin.package, (*PACKAGED, "evaluators", "features", "lanes"))],
    "stages/lib/blob/grouping.py": [*map(plugin.package, PACKAGED)],
    "stages/runtime/blob/container.py": [*map(plugin.package, PACKAGED)],
    "stages/runtime/blob/header.py": [*map(plugin.package, PACKAGED)],
    "stages/runtime/network/features/__init__.py": [plugin.package("features")],
    "stages/runtime/entry.py": [*map(plugin.package, ("evaluators", "lanes"))],
    "stages/evaluate/__main__.py": [plugin.package("evaluators")],
    "stages/package/__main__.py": [plugin.package("evaluators")],
    "stages/audit/__main__.py": ["stages.audit.checks"],
}
TOOLS = {
    "stages/audit/documentation.py",
    "stages/compress/stale.py",
    "stages/evaluate/temperature.py",
    "stages/script/driver.py",
    "stages/script/packing.py",
    "stages/lib/node/plugin_names.py",
    "stages/recipes/dial/pilot.py",
    "stages/recipes/projection.py",
    "stages/runtime/base/plugin.py",
}  # commands of their own, and what hands names on


@pytest.fixture(scope="module")
def resolved():
    """DVC's own view of the pipeline: templates filled, variants expanded."""
    return {entry.addressing: entry for entry in Repo(str(ROOT)).index.stages}


def variants(node):
    foreach = DVC_YAML["stages"][node].get("foreach")
    if foreach is None:
        return [None]
    return foreach if isinstance(foreach, list) else list(params.lookup(PARAMS, foreach.strip("${}")))


CASES = [(node, variant) for node in NODES for variant in variants(node)]


def contract(node, variant=None):
    return stage.contract(importlib.import_module(f"stages.{node}.__main__").main, variant=variant, tree=PARAMS)


def test_signatures_are_what_dvc_resolves(resolved):
    for node, variant in CASES:
        entry, declared = resolved[node if variant is None else f"{node}@{variant}"], contract(node, variant)
        data = {dep.def_path for dep in entry.deps if not hasattr(dep, "params") and not dep.def_path.startswith("stages/")}
        read = {key for dep in entry.deps if hasattr(dep, "params") for key in dep.params}
        outs = {out.def_path: out for out in entry.outs}
        assert data == set(declared.inputs) and read == set(declared.sections), (node, variant)
        shown = set(declared.metrics if node == "report" else ())  # of DVC's tables; the other files are evidence, versions, times
        assert {path for path, out in outs.items() if out.metric} == shown, node
        kept = {*declared.outputs, *declared.metrics, declared.opened} - shown
        assert {path for path, out in outs.items() if not out.metric and not out.plot} == kept, node
        assert {path for path, out in outs.items() if out.plot} == set(declared.plots), node
        assert entry.cmd == f"python -m stages.{node}" + (f" {variant}" if variant else "")
        assert all(out.use_cache and not out.persist for out in entry.outs), "either would keep a stage from the run cache"


@cache
def needed(node: str) -> frozenset[str]:
    """Every file that a node imports, through others and by name."""
    found, waiting = set(), [f"stages.{node}.__main__"]
    while waiting:
        new = set(closure.files(waiting.pop())) - found
        found |= new
        for package in {package for path in new for package in BY_NAME.get(path, ())}:
            waiting += [f"{package}.{name}" for name in plugin.names_in(package)]
    return frozenset(found)


def folders(node: str) -> list[str]:
    body = DVC_YAML["stages"][node]
    return [dep for dep in body.get("do", body)["deps"] if dep.startswith("stages/")]


def lies_in(path: str, parents: list[str]) -> bool:
    return any(path.startswith(f"{parent}/") for parent in parents)


@pytest.mark.parametrize("node", NODES)
def test_everything_that_a_node_imports_lies_in_its_folders(node):
    """DVC does not follow imports, so a file outside the folders would change without a rerun."""
    listed = folders(node)
    assert all((ROOT / folder).is_dir() for folder in listed), "code is listed by folder"
    assert sorted(path for path in needed(node) if not lies_in(path, listed)) == []
    if node != "script":  # it holds what other stages import
        assert [folder for folder in listed if not any(lies_in(path, [folder]) for path in needed(node))] == [], "nothing is used of these"


def test_modules_that_load_others_by_name_are_known():
    """What is loaded by name is no import, so the test above must be told of it."""
    marks = ("plugin.load", "plugin.names", "import_module(f")
    found = {str(path.relative_to(ROOT)) for path in PYTHON if any(mark in path.read_text() for mark in marks)}
    assert found - TOOLS <= set(BY_NAME)


def test_no_evaluator_codec_coder_or_check_ever_retrains():
    """Equal outputs stop a cascade, but not the training itself, which costs eight GPUs: its folders hold nothing of these."""
    held = {str(path.relative_to(ROOT)) for path in PYTHON if lies_in(str(path.relative_to(ROOT)), folders("train"))}
    forbidden = (
        "stages/runtime/scoring",
        "stages/runtime/blob",
        "stages/runtime/text",
        "stages/runtime/weights",
        "stages/lib/referee",
        "stages/lib/dvc",
        "stages/lib/quant",
        "stages/lib/blob",
        "stages/audit",
        "stages/evaluate",
        "stages/report",
    )
    assert [path for path in held if path.startswith(forbidden)] == []
    assert not any(folder in ("stages", "stages/lib", "stages/runtime") for folder in folders("train"))


def test_every_stage_folder_is_a_node_with_a_help_text():
    found = {path.parent.name for path in (ROOT / "stages").glob("*/__main__.py")} - {"adopt", "recipes", "submission"}
    assert found == set(NODES)
    for node in NODES:
        assert importlib.import_module(f"stages.{node}.__main__").__doc__.strip()


def test_every_section_of_params_is_read_by_a_stage():
    assert {section.split(".")[0] for node, variant in CASES for section in contract(node, variant).sections} == set(PARAMS)


def test_every_leaf_of_params_has_a_comment():
    runs = ""  # the indentation of a section whose entries the docs describe: codecs, evaluators and their options
    for number, line in enumerate((ROOT / "params.yaml").read_text().splitlines(), 1):
        key, indentation = line.split(":")[0].strip(), line[: len(line) - len(line.lstrip())]
        if runs and line.startswith(f"{runs} "):
            continue
        runs = indentation if key in ("runs", "options", "other_options") else ""
        is_leaf = line.startswith("  ") and not line.strip().endswith(":") and not line.strip().startswith("- ")
        documented_above = key in (
            "epochs",
            "gradient_clip",
            "seed",
            "sequence_length",
            "batch_tokens",
            "num_layers",
            "momentum_warmup_steps",
        )
        assert not is_leaf or "#" in line or documented_above, f"params.yaml line {number} has no comment: {line}"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """Absolute modules that a file imports anywhere, relative ones resolved."""
    module = list(path.relative_to(ROOT).with_suffix("").parts)
    out = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module[: len(module) - node.level]) if node.level else ""
            out.add(".".join(part for part in (base, node.module) if part))
    return out


SHIPPED = {"torch", "numpy", "sentencepiece", "brotli", "zstandard", "constriction"}


COMMANDS_USE = {
    "adopt": ["stages.recipes", "stages.train"],
    "submission": ["stages.recipes"],
    "recipes": ["stages.script", "stages.prepare"],
}  # these are no nodes


def test_layers_point_down():
    """A node imports itself, lib and runtime; lib imports lib and runtime; runtime imports itself and what a decoder needs."""
    for path in PYTHON:
        parts, found = path.relative_to(ROOT).parts, imports(path)
        ours = {name for name in found if name.split(".")[0] == "stages"} - {"stages"}
        allowed = ("stages.lib", "stages.runtime")
        if parts[1] == "runtime":
            allowed = ("stages.runtime",)
            assert {name.split(".")[0] for name in found} - {"stages", *sys.stdlib_module_names} <= SHIPPED, path
            assert not any(
                isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("stages")
                for node in ast.walk(parsed(path))
            ), f"{path}: what ships is imported relatively, as its package is renamed"
            if len(parts) > 4 and parts[3] in PACKAGED:
                package = ".".join(parts[:4])
                own = f"{package}.{parts[4].removesuffix('.py')}"
                assert not {name for name in ours if name.startswith(f"{package}.") and not name.startswith(own)}, (
                    f"{path}: plug-ins do not import each other"
                )
        elif parts[1] != "lib":
            allowed += (f"stages.{parts[1]}", *COMMANDS_USE.get(parts[1], ()))
        assert all(name.startswith(allowed) for name in ours), path


def test_files_are_short_enough_and_say_what_they_are():
    for path in PYTHON:
        is_plugin = path.parent.name in ("codecs", "coders", "filters", "evaluators", "checks", "methods", "loaders", "techniques")
        limit = 200 if path.name == "__main__.py" else 150 if is_plugin else 400
        assert len(path.read_text().splitlines()) <= limit, path
        assert ast.get_docstring(parsed(path)), f"{path}: the first line says what the file is"


def test_folders_are_small_enough():
    """Plug-ins, quantizers and recipes come in any number; of all else a room holds at most fifteen files."""
    for folder in {path.parent for path in PYTHON}:
        if folder.name not in (
            "features",
            "codecs",
            "coders",
            "filters",
            "evaluators",
            "checks",
            "methods",
            "loaders",
            "techniques",
            "quant",
            "recipes",
        ):
            assert len(list(folder.glob("*.py"))) <= 15, folder


def test_nothing_is_ever_unpickled():
    """But by one program, which reads tensors alone, in the jail; tests/test_adopt.py looks at what it refuses."""
    allowed, exception = ROOT / "stages/adopt/unpickle.py", 'torch.load(path, map_location="cpu", weights_only=True)'
    assert allowed.read_text().count(exception) == 1
    for path in PYTHON:
        source = path.read_text().replace(exception, "") if path == allowed else path.read_text()
        assert "import pickle" not in source and "torch.load" not in source and "allow_pickle=True" not in source, path
