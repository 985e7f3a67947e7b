"""The one script gives what the pipeline gives, to the bit, alone in a folder with nothing but the data; and holds only what it needs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from stages.audit.code import unpack
from stages.lib.node import params
from stages.recipes import __main__ as recipes
from stages.recipes import catalog
from stages.script import driver, packing
from tests.conftest import ROOT, run_node, set_leaf
from tests.test_evaluators import LORA

PARAMS = params.read(ROOT / "params.yaml")
SECTIONS = ("model", "train", "ema", "prequant_ttt", "calibrate", "sensitivity", "quantize", "compress", "package", "evaluate")


def small(name: str) -> dict:
    """A recipe in small, for the text of the finished pipeline."""
    return catalog.applied(recipes.scaled(name, "tiny", PARAMS), PARAMS)


def run_script(text: str, data, folder, *, seed: int, processes: int = 1) -> dict:
    """What the script wrote and said, run in an empty folder."""
    folder.mkdir()
    (folder / "train_gpt.py").write_text(text)
    command = (
        [sys.executable, "-I"]
        if processes == 1
        else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    done = subprocess.run(
        [*command, "train_gpt.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={"PATH": os.environ["PATH"], "DATA_PATH": str(data), "OMP_NUM_THREADS": "1", "SEED": str(seed)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in folder.iterdir()) == ["memory.bin", "model.blob", "train_gpt.py"]
    score = re.search(r"val_loss:(\S+) val_bpb:(\S+) eval_time", done.stdout)
    return {"blob": (folder / "model.blob").read_bytes(), "said": done.stdout, "val_loss": float(score[1]), "val_bpb": float(score[2])}


def run_pipeline(project, values: dict, run: str, evaluation: str) -> None:
    """Stage after stage on the finished text; those that have several processes by torchrun, as `python -m stages.<node>` starts it."""
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for words in [("script",), *((node,) for node in packing.STAGES), ("compress", run), ("package",), ("evaluate", evaluation)]:
        if values.get(words[0], {}).get("processes", 1) == 1:
            run_node(*words)
        else:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, "-m", f"stages.{words[0]}", *words[1:]], cwd=project, env=environment, check=True, timeout=900)


def assert_same_as_the_pipeline(project, tree: dict, folder, *, processes: int = 1) -> None:
    """`tree` on the finished text: the pipeline's stages, and the script."""
    values = yaml.safe_load((project / "params.yaml").read_text()) | {section: tree[section] for section in SECTIONS}
    (run,) = (name for node, name in packing.stages(values) if node == "compress")
    values["compress"]["runs"] = {run: values["compress"]["runs"][run]}
    for node in driver.TOGETHER:
        values[node]["processes"] = min(processes, values[node].get("ranks", processes)) if values[node].get("enabled", True) else 1
    chosen = {"evaluator": values["package"]["evaluator"], "options": values["package"]["options"]}
    name = next(name for name, evaluation in values["evaluate"]["runs"].items() if evaluation == chosen)
    run_pipeline(project, values, run, name)
    text = packing.wrapped(packing.contents(values))
    made = run_script(text, project / "artifacts/tokenize", folder, seed=values["train"]["seed"], processes=processes)
    assert made["blob"] == (project / f"artifacts/compress/{run}/model.blob").read_bytes()
    scored = json.loads((project / f"artifacts/evaluate/{name}/metrics.json").read_text())
    assert (made["val_bpb"], made["val_loss"]) == (scored["bits_per_byte"], scored["loss_nats"])


def test_script_gives_the_blob_and_the_score_of_the_pipeline_to_the_bit(project, tmp_path):
    run_node("script")
    script, metrics = project / "artifacts/script/train_gpt.py", json.loads((project / "artifacts/script/metrics.json").read_text())
    made = run_script(script.read_text(), project / "artifacts/tokenize", tmp_path / "empty", seed=1337)
    blob = (project / "artifacts/compress/brotli_11/model.blob").read_bytes()
    scored = json.loads((project / "artifacts/evaluate/sliding/metrics.json").read_text())
    assert made["blob"] == blob and made["val_bpb"] == scored["bits_per_byte"]
    assert metrics["code_bytes"] == script.stat().st_size
    memory = (project / "artifacts/memory/memory.bin").stat().st_size
    assert f"Total submission size: {script.stat().st_size + len(blob) + memory} bytes" in made["said"] and memory
    rows = (project / "artifacts/script/bytes.csv").read_text().splitlines()[1:]
    assert sum(int(row.rsplit(",", 1)[1]) for row in rows) == script.stat().st_size
    source = project / "artifacts/script/source"
    assert (source / "stages/train/loop.py").read_text() == (ROOT / "stages/train/loop.py").read_text()
    assert not (source / "stages/report").exists()


@pytest.mark.recipes
@pytest.mark.parametrize("name", ["default", "pr1493", "pr1399"])  # the last has one rank in prequant_ttt
def test_script_on_two_processes_of_torchrun_gives_the_same(project, tmp_path, name):
    tree = yaml.safe_load((project / "params.yaml").read_text()) if name == "default" else small(name)
    assert_same_as_the_pipeline(project, tree, tmp_path / "empty", processes=2)


@pytest.mark.recipes
@pytest.mark.parametrize("name", catalog.whole())
def test_script_of_every_recipe_is_the_pipeline_to_the_bit(project, tmp_path, name):
    assert_same_as_the_pipeline(project, small(name), tmp_path / "empty")


@pytest.mark.slow
def test_script_scores_in_the_order_of_an_evaluator_that_has_its_own(project, tmp_path, capsys, monkeypatch):
    """Many documents learn at once, in an order that is not that of the text: the same score as of the stages."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    options = LORA | {"chunk": 64, "window": 128, "slots": 3, "shares": 2}
    values["package"] |= {"evaluators": ["ttt_lora"], "evaluator": "ttt_lora", "options": options, "other_options": {}}
    values["evaluate"]["runs"] = {"slots": {"evaluator": "ttt_lora", "options": options}}
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for words in (("script",), ("package",), ("evaluate", "slots")):
        run_node(*words)
    scored = json.loads((project / "artifacts/evaluate/slots/metrics.json").read_text())
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(min(project.glob("artifacts/compress/*/model.blob"), key=lambda path: path.stat().st_size), here / "model.blob")
    shutil.copy(project / "artifacts/memory/memory.bin", here)
    monkeypatch.chdir(here)
    capsys.readouterr()
    driver.score(project, ROOT / "README.md", "ttt_lora", options)
    assert f"val_bpb:{scored['bits_per_byte']} " in capsys.readouterr().out


PARTS = {
    "codes": {"coder": "covariance", "filters": [], "options": {}},
    "rest": {"codec": "brotli", "filters": [], "options": {"quality": 11, "window_bits": 24}},
}
RARE = {  # what no recipe has: leaves, and the evaluation that is packed
    "entropy": (
        {
            **{f"quantize.groups.{name}.method": "entropy" for name in ("embedding", "attention", "mlp")},
            "calibrate.row_gradients": True,
            "sensitivity.enabled": True,
            "prequant_ttt.enabled": True,
            "quantize.tuning.steps": 4,
            "package.blob": "smallest",
            "compress.runs": {"parts": {"filters": [], "groups": PARTS}},
        },
        "causal_slot",
    ),
    "rotated": (
        {
            "train.optimizer": "adamw",
            "ema.average": "best",
            "calibrate.source": "self",
            "quantize.scales_as": "float8",
            "quantize.groups.mlp": {"method": "nearest", "bits": 6, "scales": "percentile", "clip": [0.99, 1.0]},
            "quantize.rotation.groups": ["attention"],
            "quantize.rotation.block": 16,
            "train.qat.form": "soft_round",
            "train.qat.threshold": 1.0,
            "train.qat.earliest_step": 0,
        },
        "slot",
    ),
    "corrected": (
        {
            "ema.average": "posthoc_ema_0.97",
            "quantize.low_rank.matrices": 2,
            "quantize.prune.codes": 50,
            "quantize.tuning.steps": 4,
            "quantize.overrides": [{"tensors": "blocks.0.*", "bits": 7, "method": "nearest"}],
            "train.loader": "coprime",
            "train.priming_steps": 2,
            "train.fused_loss": "never",
            "train.compile": "never",
        },
        "sliding",
    ),
}


@pytest.mark.recipes
@pytest.mark.parametrize("name", RARE)
def test_script_of_rare_settings_is_the_pipeline_to_the_bit(project, tmp_path, name):
    leaves, evaluation = RARE[name]
    values = yaml.safe_load((project / "params.yaml").read_text())
    for path, value in leaves.items():
        set_leaf(values, path, value)
    chosen = values["evaluate"]["runs"][evaluation]
    values["package"] |= {"evaluator": chosen["evaluator"], "options": chosen["options"]}
    assert_same_as_the_pipeline(project, values, tmp_path / "empty")


@pytest.mark.parametrize("name", ["default", *catalog.whole()])
def test_script_holds_what_the_run_uses_and_nothing_else(name):
    tree = PARAMS if name == "default" else catalog.applied(catalog.values(name, PARAMS), PARAMS)
    modules = packing.modules(tree)
    found = {
        folder: {path.split("/")[4].removesuffix(".py") for path in modules if path.startswith(f"{folder}/")} - {"__init__"}
        for folder in (
            "stages/lib/quant/methods",
            "stages/lib/tokens/loaders",
            "stages/runtime/network/features",
            "stages/runtime/blob/codecs",
            "stages/runtime/scoring/evaluators",
        )
    }
    methods = {group["method"] for group in tree["quantize"]["groups"].values()} - {"none"}
    methods |= {"gptq"} if "awq_lite" in methods else set()  # which it is, but for one matrix
    assert found["stages/lib/quant/methods"] == methods and found["stages/runtime/network/features"] == set(tree["model"]["features"])
    assert (
        tree["train"]["loader"] in found["stages/lib/tokens/loaders"]
        and tree["package"]["evaluator"] in found["stages/runtime/scoring/evaluators"]
    )
    assert not any(path.startswith(("stages/audit", "stages/report", "stages/lib/referee", "stages/lib/text")) for path in modules)
    assert not {path for path in packing.NOT_PACKED if not (ROOT / path).is_file()}, "a file that is left out must exist"


def test_script_computes_the_multipliers_that_the_recipe_wants():
    """From gradients alone, measured, or none."""
    tree = catalog.applied(catalog.values("caddie", PARAMS), PARAMS)
    for start, enabled in (("gradient", False), ("ones", True), ("ones", False)):
        tree["sensitivity"] |= {"start": start, "enabled": enabled}
        planned = packing.plan(tree)
        assert (("sensitivity", None) in planned["stages"]) == (start == "gradient" or enabled)
        assert ("artifacts/sensitivity/multipliers.json" in planned["files"]) == (start == "ones" and not enabled)


def test_default_and_largest_script_are_as_small_as_is_claimed():
    """Code counts: what the settings JSON, the driver and the modules take, packed. docs/submission.md has every stack.

    pr1855 had 70,000 before documents could learn at once, which its test-time training needs to end within 600 s. The default compresses
    many parts of a file at once.
    """
    for name, limit in (("default", 87_000), ("pr1855", 75_500)):
        tree = PARAMS if name == "default" else catalog.applied(catalog.values(name, PARAMS), PARAMS)
        assert len(packing.wrapped(packing.contents(tree)).encode()) <= limit, name


def test_a_minified_module_keeps_every_name_that_another_module_uses():
    """Modules are minified one by one: what one of them exports keeps its name, and what only it mentions may lose it."""
    contents = packing.contents(PARAMS)
    exported = {
        path: {part.name for part in ast.parse(source).body if isinstance(part, ast.FunctionDef | ast.ClassDef)}
        for path, source in contents.items()
        if path.endswith(".py")
    }
    for path, source in contents.items():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module and f"{node.module.replace('.', '/')}.py" in exported:
                defined = ast.parse(contents[f"{node.module.replace('.', '/')}.py"])
                names = (
                    {inner.id for inner in ast.walk(defined) if isinstance(inner, ast.Name)}
                    | exported[f"{node.module.replace('.', '/')}.py"]
                    | {alias.name for inner in ast.walk(defined) if isinstance(inner, ast.Import | ast.ImportFrom) for alias in inner.names}
                )
                assert {alias.name for alias in node.names} <= names, (path, node.module)


def test_packed_script_runs_what_it_unpacks(tmp_path):
    """Also text that is not ASCII, and a kernel whose compiler reads its source."""
    driver = (
        "import inspect, shutil\ndef kernel(x): return x + 1\n"
        "def main(folder, script):\n    print('größer', inspect.getsource(kernel).strip(), script.name)\n    shutil.rmtree(folder)\n"
    )
    (tmp_path / "a.py").write_text(packing.wrapped({"stages/script/driver.py": driver}))
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-I", "a.py"], capture_output=True, text=True, encoding="utf-8", check=True, cwd=tmp_path
    )
    assert done.stdout == "größer def kernel(x): return x + 1 a.py\n" and [path.name for path in tmp_path.iterdir()] == ["a.py"]


def test_a_name_that_the_script_cannot_find_is_an_error_and_not_silence(tmp_path):
    """Nothing patches source text: a module that is missing stops the script."""
    (tmp_path / "a.py").write_text(packing.wrapped({"stages/script/driver.py": "from stages.lib.node import gone\n"}))
    done = subprocess.run([sys.executable, "-I", "a.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and "gone" in done.stderr


@pytest.mark.slow
def test_audit_of_submissions_opens_the_script():
    """It finds every module of more than one short line, without running anything."""
    contents = packing.contents(PARAMS)
    layers, unread = unpack.layers("train_gpt.py", packing.wrapped(contents))
    found = {layer.name.rpartition(" > ")[2]: layer.source for layer in layers}
    assert unread == [] and all(
        found[path] == source for path, source in contents.items() if len(source) >= unpack.SMALLEST and path != "run.json"
    )
