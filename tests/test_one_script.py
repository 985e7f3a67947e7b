"""The one script gives what the pipeline gives, to the bit, alone in a folder with nothing but the data; and holds only what it needs."""

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from stages.lib import params
from stages.lib.one_script import fold, program, prune, syntax, wrap
from stages.recipes import __main__ as recipes
from stages.recipes import files
from tests.conftest import ROOT, run_node, set_leaf

PARAMS = params.read(ROOT / "params.yaml")
SECTIONS = ("model", "train", "ema", "prequant_ttt", "calibrate", "allocate", "quantize", "compress", "package", "evaluate")


def small(name: str) -> dict:
    """A recipe in small, for the text of the finished pipeline."""
    return files.applied(recipes.scaled(name, "tiny", PARAMS), PARAMS)


def run_script(text: str, data, folder, *, seed: int, processes: int = 1) -> dict:
    """What the script wrote and said, run in an empty folder."""
    folder.mkdir()
    (folder / "train_gpt.py").write_text(text)
    command = [sys.executable, "-I"] if processes == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*command, "train_gpt.py"], cwd=folder, capture_output=True, text=True, timeout=900, check=False,
                          env={"PATH": os.environ["PATH"], "DATA_PATH": str(data), "OMP_NUM_THREADS": "1", "SEED": str(seed)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in folder.iterdir()) == ["model.blob", "train_gpt.py"]
    score = re.search(r"val_loss:(\S+) val_bpb:(\S+) eval_time", done.stdout)
    return {"blob": (folder / "model.blob").read_bytes(), "said": done.stdout, "val_loss": float(score[1]), "val_bpb": float(score[2])}


def assert_same_as_the_pipeline(project, tree: dict, folder) -> None:
    """`tree` on the finished text: stage after stage, and the script."""
    values = yaml.safe_load((project / "params.yaml").read_text()) | {section: tree[section] for section in SECTIONS}
    _, _, run = values["package"]["blob"].partition("/")
    values["compress"]["runs"] = {run: values["compress"]["runs"][run]}
    name = next(name for name, chosen in values["evaluate"]["runs"].items() if chosen["evaluator"] == values["package"]["evaluator"]
                and chosen["options"] == values["package"]["options"])
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for node in (("train",), ("ema",), ("prequant_ttt",), ("calibrate",), ("allocate",), ("fit",), ("quantize",), ("compress", run),
                 ("package",), ("evaluate", name)):
        run_node(*node)
    text = wrap.wrapped(wrap.shortened(program.build(values).tree))
    made = run_script(text, project / "artifacts/tokenize", folder, seed=values["train"]["seed"])
    assert made["blob"] == (project / f"artifacts/{values['package']['blob']}/model.blob").read_bytes()
    scored = json.loads((project / f"artifacts/evaluate/{name}/metrics.json").read_text())
    assert (made["val_bpb"], made["val_loss"]) == (scored["bits_per_byte"], scored["loss_nats"])


@dataclasses.dataclass(frozen=True)
class Part:
    form: str
    bits: int
    seed: int


def folded(source: str) -> str:
    ahead = "multi_token_prediction"
    known = fold.Known({"Part": Part("soft", 6, 1)}, {("Part", "seed")}, {"xsa", ahead}, {"xsa", "two_lane", ahead}, {"attended"}, {ahead},
                       {"method": {"gptq"}}, {}, "", {}, {}, set(), {}, ("coders/",), frozenset({"rotation"}))
    tree, changed = ast.parse(source), True
    while changed:
        folding = fold.Fold(known)
        folding.visit(tree)
        changed = folding.changed
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.mark.parametrize("source, expected", [
    ("def f(part: Part):\n    if part.form == 'none':\n        g()\n    return part.bits", "def f(part: Part):\n    return 6"),
    ("def f(part: Part):\n    return part.seed + part.bits", "def f(part: Part):\n    return part.seed + 6"),
    ("def f(part: Part, other):\n    part = other\n    return part.bits", None),       # it may be another part by then
    ("def f(part: Part):\n    return lambda part: part.bits", None),                   # it is another part
    ("def f(net, x):\n    return x if 'two_lane' in net.features else net.hooks.apply('final', x)", "def f(net, x):\n    return x"),
    ("def f(net, x):\n    return 'two_lane' in net.features or net.hooks.apply('final', x)", "def f(net, x):\n    return x"),
    ("def f(net, x):\n    return 'multi_token_prediction' in net.features", None),     # training may have it, the artifact has not
    ("def f(net, x):\n    return net.hooks.apply('attended', x)", None),
    ("def f(scheme, x):\n    return g(x) if scheme.get('rotation') else x", "def f(scheme, x):\n    return x"),
    ("def f(x):\n    a = None\n    for a in x:\n        g(a)\n    return a", None),    # not the same all the time
    ("def f(group):\n    return group.method == 'ternary' or group.method", "def f(group):\n    return group.method"),
])
def test_what_the_parameters_say_is_decided_and_nothing_else(source, expected):
    assert folded(source) == (source if expected is None else expected)


def test_what_nothing_refers_to_is_gone_and_what_is_looked_up_by_name_stays():
    tree = ast.parse("import json\nimport math\ndef a(): return b()\ndef b(): return math.pi\ndef c(): return a()\n"
                     "class D:\n    def forward(self): pass\n    def used(self): pass\n    def unused(self): pass\n"
                     "getattr(D(), 'used')()\na()")
    while prune.unreachable(tree, tree.body[-2:]):
        pass
    left = [part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef | ast.ClassDef)]
    assert sorted(left) == ["D", "a", "b", "forward", "used"] and "json" not in ast.unparse(tree)


def test_what_is_called_check_only_raises():
    """So that the script may leave it out."""
    for path in program.source_files(PARAMS):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.FunctionDef) and prune.CHECK.fullmatch(part.name):
                returned = [inner for inner in ast.walk(part) if isinstance(inner, ast.Return) and inner.value is not None]
                stored = [inner for inner in ast.walk(part) if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)]
                assert not returned and not stored, f"{path}: {part.name}"


def test_packed_program_runs_as_it_is(tmp_path):
    text = wrap.wrapped("print('größer', 1 + 1)\n" * 40)
    (tmp_path / "a.py").write_text(text)
    command = [sys.executable, "-X", "utf8", "-I", tmp_path / "a.py"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout == "größer 2\n" * 40 and len(text) < 160 and text.isascii()


def test_kernel_finds_its_source_in_the_packed_program(tmp_path):
    """Triton reads the source of what it compiles."""
    (tmp_path / "a.py").write_text(wrap.wrapped("import inspect\ndef triton(x): return x + 1\nprint(inspect.getsource(triton))\n"))
    done = subprocess.run([sys.executable, "-I", tmp_path / "a.py"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "def triton(x): return x + 1"


def test_script_gives_the_blob_and_the_score_of_the_pipeline_to_the_bit(project, tmp_path):
    run_node("script")
    script, metrics = project / "artifacts/script/train_gpt.py", json.loads((project / "artifacts/script/metrics.json").read_text())
    made = run_script(script.read_text(), project / "artifacts/tokenize", tmp_path / "empty", seed=1337)
    blob = (project / "artifacts/compress/brotli_11/model.blob").read_bytes()
    scored = json.loads((project / "artifacts/evaluate/sliding/metrics.json").read_text())
    assert made["blob"] == blob and made["val_bpb"] == scored["bits_per_byte"]
    assert metrics["code_bytes"] == script.stat().st_size
    assert f"Total submission size: {script.stat().st_size + len(blob)} bytes" in made["said"]
    rows = (project / "artifacts/script/bytes.csv").read_text().splitlines()[1:]
    assert sum(int(row.rsplit(",", 1)[1]) for row in rows) == script.stat().st_size
    source = project / "artifacts/script/source"
    assert (source / "stages/train/loop.py").read_text() == (ROOT / "stages/train/loop.py").read_text()
    assert "bit for bit" not in (source / "one_module.py").read_text() and not (source / "stages/report").exists()


@pytest.mark.recipes
def test_script_on_two_processes_of_torchrun_gives_the_same(project, tmp_path):
    run_node("script")
    text = (project / "artifacts/script/train_gpt.py").read_text()
    made = run_script(text, project / "artifacts/tokenize", tmp_path / "empty", seed=1337, processes=2)
    assert made["blob"] == (project / "artifacts/compress/brotli_11/model.blob").read_bytes()
    assert made["val_bpb"] == json.loads((project / "artifacts/evaluate/sliding/metrics.json").read_text())["bits_per_byte"]


@pytest.mark.recipes
@pytest.mark.parametrize("name", files.stacks())
def test_script_of_every_recipe_is_the_pipeline_to_the_bit(project, tmp_path, name):
    assert_same_as_the_pipeline(project, small(name), tmp_path / "empty")


PARTS = {"codes": {"coder": "covariance", "filters": [], "options": {}},
         "rest": {"codec": "brotli", "filters": [], "options": {"quality": 11, "window_bits": 24}}}
RARE = {  # what no recipe has: leaves, and the evaluation that is packed
    "entropy": ({**{f"quantize.groups.{name}.method": "entropy" for name in ("embedding", "attention", "mlp")},
                 "calibrate.row_gradients": True, "allocate.enabled": True, "prequant_ttt.enabled": True, "package.blob": "compress/parts",
                 "compress.runs": {"parts": {"filters": [], "groups": PARTS}}}, "causal_slot"),
    "rotated": ({"train.optimizer": "adamw", "ema.average": "best", "calibrate.source": "self", "quantize.scales_as": "float8",
                 "quantize.groups.mlp": {"method": "nearest", "bits": 6, "scales": "percentile", "clip": [0.99, 1.0]},
                 "quantize.rotation.groups": ["attention"], "quantize.rotation.block": 16, "train.qat.form": "soft_round",
                 "train.qat.threshold": 1.0, "train.qat.earliest_step": 0}, "slot"),
    "corrected": ({"ema.average": "posthoc_ema_0.97", "quantize.low_rank.matrices": 2, "quantize.prune.codes": 50,
                   "quantize.overrides": [{"tensors": "blocks.0.*", "bits": 7}], "train.loader": "coprime", "train.priming_steps": 2,
                   "train.fused_loss": "never", "train.compile": "never"}, "sliding"),
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


def test_a_copy_does_not_follow_what_the_minifier_leaves_on_nodes_that_all_trees_share():
    wrap.shortened(ast.parse("x = [1, 2]\nprint(x)"))  # which hangs its parents on Python's only ast.Load
    tree = ast.parse("def one(a):\n    return [b.c for b in a if b]")
    copy = syntax.copied(tree)
    assert ast.dump(copy, include_attributes=True) == ast.dump(tree, include_attributes=True)
    assert all(set(vars(part)) <= {*part._fields, *part._attributes} for part in syntax.nodes(copy))
    assert not {id(part) for part in syntax.nodes(copy)} & {id(part) for part in syntax.nodes(tree)}


def test_nodes_are_those_of_ast_walk_in_its_order():
    tree = ast.parse((ROOT / "stages/lib/one_script/fold.py").read_text())
    assert [id(part) for part in syntax.nodes(tree)] == [id(part) for part in ast.walk(tree)]
