"""Signatures, dvc.yaml, params.yaml and imports say the same; layers point down; every file can be read at a sitting."""

import ast
import importlib
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stages.lib import closure, params, stage, wiring
from tests.conftest import ROOT

DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = params.read(ROOT / "params.yaml")
NODES = list(DVC_YAML["stages"])


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


@pytest.mark.parametrize("node, variant", CASES, ids=lambda part: str(part))
def test_signature_and_imports_are_what_dvc_resolves(resolved, node, variant):
    entry = resolved[node if variant is None else f"{node}@{variant}"]
    contract = stage.contract(importlib.import_module(f"stages.{node}.__main__").main, variant=variant, tree=PARAMS)
    deps = {dep.def_path for dep in entry.deps if not hasattr(dep, "params")}
    read = {key for dep in entry.deps if hasattr(dep, "params") for key in dep.params}
    code = {dep for dep in deps if dep.startswith("stages/")}
    assert deps - code == set(contract.inputs)
    assert read == set(contract.sections)
    imported = set(closure.files(f"stages.{node}.__main__"))
    files = {str(path.relative_to(ROOT)) for dep in code for path in [ROOT / dep, *(ROOT / dep).rglob("*.py")] if path.is_file()}
    assert imported <= files
    plugins = [dep for dep in code if dep in wiring.PLUGIN_FOLDERS]
    needed = imported | wiring.imported_by_plugins(plugins)
    assert all(path in needed or path.startswith(("stages/runtime/", "stages/audit/", *plugins)) for path in files)
    outs = {out.def_path: out for out in entry.outs}
    assert {path for path, out in outs.items() if not out.metric and not out.plot} == {*contract.outputs, contract.opened}
    assert {path for path, out in outs.items() if out.metric} == set(contract.metrics)
    assert {path for path, out in outs.items() if out.plot} == set(contract.plots)
    assert entry.cmd == f"python -m stages.{node}" + (f" {variant}" if variant else "")
    assert all(out.use_cache and not out.persist for out in entry.outs)  # either would keep a stage from the run cache


def test_wiring_command_finds_nothing_to_do():
    assert wiring.main([]) == 0


def test_a_folder_stands_for_its_files_where_all_of_them_are_needed():
    inside = [str(path.relative_to(ROOT)) for path in (ROOT / "stages/lib/optim").glob("*.py")]
    assert wiring.folded([*inside, "stages/lib/stage.py"]) == ["stages/lib/optim", "stages/lib/stage.py"]
    assert wiring.folded(inside[1:]) == sorted(inside[1:])


def test_wiring_command_notices_a_missing_dependency(monkeypatch, tmp_path, capsys):
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    tree["stages"]["train"]["deps"].remove("stages/lib/optim")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.setattr(wiring, "DVC_YAML", tmp_path / "dvc.yaml")
    assert wiring.main([]) == 1 and "missing ['stages/lib/optim']" in capsys.readouterr().err
    assert wiring.main(["--write"]) == 0 and wiring.main([]) == 0


def test_every_stage_folder_is_a_node_with_a_help_text():
    folders = {path.parent.name for path in (ROOT / "stages").glob("*/__main__.py")} - {"recipes", "submission"}
    assert folders == set(NODES)
    for node in NODES:
        assert importlib.import_module(f"stages.{node}.__main__").__doc__.strip()


def test_every_section_and_leaf_of_params_is_read_by_a_stage():
    read = {section for node, variant in CASES
            for section in stage.contract(importlib.import_module(f"stages.{node}.__main__").main, variant=variant, tree=PARAMS).sections}
    tops = {section.split(".")[0] for section in read}
    assert tops == set(PARAMS)


def test_every_leaf_of_params_has_a_comment():
    for number, line in enumerate((ROOT / "params.yaml").read_text().splitlines(), 1):
        key = line.split(":")[0].strip()
        is_leaf = line.startswith("  ") and not line.strip().endswith(":") and "{codec:" not in line and "{evaluator:" not in line
        documented_above = key in ("epochs", "gradient_clip", "seed", "sequence_length", "batch_tokens", "num_layers",
                                   "momentum_warmup_steps", "options")
        assert not is_leaf or "#" in line or documented_above, f"params.yaml line {number} has no comment: {line}"


def imports(path: Path) -> set[str]:
    """Absolute modules that a file imports anywhere, relative ones resolved."""
    module = list(path.relative_to(ROOT).with_suffix("").parts)
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            is_package = module[-1] == "__init__"
            base = ".".join(module[: len(module) - node.level]) if node.level else ""
            del is_package
            out.add(".".join(part for part in (base, node.module) if part))
    return out


PYTHON = sorted((ROOT / "stages").rglob("*.py"))


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_layers_point_down(path):
    parts, found = path.relative_to(ROOT).parts, imports(path)
    ours = {name for name in found if name.split(".")[0] == "stages"}
    if parts[1] == "runtime":
        assert all(name.startswith("stages.runtime") for name in ours), "what ships imports only what ships"
        allowed = {"torch", "numpy", "sentencepiece", "brotli", "zstandard", "constriction"}
        import sys
        third_party = {name.split(".")[0] for name in found} - {"stages", *sys.stdlib_module_names}
        assert third_party <= allowed
        if parts[2] in ("codecs", "coders", "filters"):
            assert not {name for name in ours if name.startswith(f"stages.runtime.{parts[2]}.")}, "plug-ins do not import each other"
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("stages"))
    elif parts[1] == "lib":
        assert all(name.startswith(("stages.lib", "stages.runtime")) or name == "stages" for name in ours)
    elif len(parts) > 2:
        own = (f"stages.{parts[1]}", *(["stages.recipes"] if parts[1] == "submission" else []))  # commands both, and no nodes
        assert all(name.startswith(("stages.lib", "stages.runtime", *own)) or name == "stages" for name in ours)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_enough_and_says_what_it_is(path):
    text = path.read_text()
    is_plugin = path.parent.name in ("codecs", "coders", "filters", "evaluators", "checks")
    limit = 200 if path.name == "__main__.py" else 150 if is_plugin else 400
    assert len(text.splitlines()) <= limit
    assert ast.get_docstring(ast.parse(text)), "the first line says what the file is"


def test_nothing_is_ever_unpickled():
    for path in PYTHON:
        source = path.read_text()
        assert "import pickle" not in source and "torch.load" not in source and "allow_pickle=True" not in source, path
