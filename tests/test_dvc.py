"""DVC reruns what changed and nothing above it."""

import contextlib
import json

import networkx
import pytest
import yaml
from dvc.repo import Repo

from tests import repository
from tests.conftest import ROOT, set_leaf
from tests.repository import run

pytestmark = pytest.mark.dvc


@pytest.fixture(scope="module")
def committed(finished, tmp_path_factory):
    """The finished tiny pipeline as a git and DVC repository in which everything is up to date."""
    return repository.committed(finished, tmp_path_factory.mktemp("committed") / "repo")


def stale(root) -> set[str]:
    """Nodes whose own parameters or files differ from dvc.lock, as DVC sees it."""
    with contextlib.chdir(root):  # DVC's names are relative to the current folder
        return set(Repo(str(root)).status())


def below(root, nodes: set[str]) -> set[str]:
    """The nodes and everything that can rerun because of them."""
    with contextlib.chdir(root):
        graph = Repo(str(root)).index.graph  # edges point from a stage to what it depends on
        names = {entry.addressing: entry for entry in graph}
        return {entry.addressing for node in nodes for entry in networkx.ancestors(graph, names[node])} | nodes


def test_everything_is_up_to_date_after_a_run(committed):
    assert stale(committed) == set()


TOKENIZE = {"tokenize@train", "tokenize@holdout", "tokenize@val"}
SCORED = {f"plain_score@{after}" for after in ("train", "ema", "prequant_ttt", "quantize")}
AUDIT = {"audit@sliding", "audit@slot"}
LEAVES = {  # one leaf of every section -> the nodes that read it; `script` reads all of them
    ("prepare.max_bytes", 123456): {"prepare"},
    ("text_compressors.train_bytes", 5): {"text_compressors"},
    ("vocabulary.size", 400): {"vocabulary"},
    ("tokenize.shard_tokens", 1000): TOKENIZE,
    ("model.width", 32): {"train"},
    ("train.steps", 13): {"train"},
    ("ema.average", "final"): {"ema"},
    ("prequant_ttt.epochs", 2): {"prequant_ttt"},
    ("calibrate.sequences", 17): {"calibrate"},
    ("sensitivity.tokens", 1000): {"sensitivity"},
    ("memory.bytes", 1000): {"memory"},
    ("quantize.groups.mlp.bits", 5): {"quantize", "fill_cap"},
    ("plain_score.window", 32): SCORED | {"report"},
    ("compress.runs.zlib_9.options.level", 8): {"compress@zlib_9", "package", "report", "fill_cap"},
    ("package.cap_bytes", 15_000_000): {"package", "fill_cap", "audit@sliding", "audit@slot"},
    ("evaluate.runs.slot.options.steps", 6): {"evaluate@slot", "audit@slot", "report"},
    ("audit.replayed", 199): AUDIT,
}


def test_every_section_has_a_leaf_in_the_table():
    assert {path.split(".")[0] for path, _ in LEAVES} == set(yaml.safe_load((ROOT / "params.yaml").read_text()))


QUICK = ("train.steps", "evaluate.runs.slot.options.steps", "audit.replayed")  # one above the artifact, one below, one that is read twice


@pytest.mark.parametrize(
    "change, nodes", [pytest.param(*case, id=case[0][0], marks=() if case[0][0] in QUICK else pytest.mark.slow) for case in LEAVES.items()]
)
def test_changed_leaf_makes_its_readers_stale_and_nothing_else(committed, change, nodes):
    original = (committed / "params.yaml").read_text()
    values = yaml.safe_load(original)
    set_leaf(values, *change)
    try:
        (committed / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        assert stale(committed) == nodes | {"script"}
    finally:
        (committed / "params.yaml").write_text(original)


@pytest.mark.parametrize(
    "path, nodes",
    [
        ("stages/train/optim/muon.py", {"train", "script"}),
        ("stages/lib/quant/methods/gptq.py", {"sensitivity", "quantize", "fill_cap", "script"}),
        (
            "stages/runtime/blob/codecs/zlib.py",
            {"compress@brotli_11", "compress@zlib_9", "package", "fill_cap", "script", "text_compressors", "audit@sliding", "audit@slot"},
        ),
        ("stages/runtime/scoring/evaluators/slot.py", {"package", "script", "evaluate@sliding", "evaluate@slot"}),
        ("stages/audit/checks/lineage.py", AUDIT),
        ("stages/report/page.py", {"report"}),
    ],
)
def test_changed_code_makes_its_users_stale_and_nothing_else(committed, path, nodes):
    original = (committed / path).read_text()
    try:
        (committed / path).write_text(original + "# a comment\n")
        assert stale(committed) == nodes
    finally:
        (committed / path).write_text(original)


def test_nothing_that_trains_is_below_val(committed):
    reruns = below(committed, {"tokenize@val"})
    assert reruns == {"tokenize@val", "report"} | SCORED | AUDIT | {"evaluate@sliding", "evaluate@slot"}


def test_quantize_reruns_itself_and_what_is_below(committed):
    reruns = below(committed, {"quantize"})
    assert "plain_score@quantize" in reruns and "package" in reruns and reruns >= AUDIT
    assert not {"prepare", "vocabulary", "train", "ema", "prequant_ttt", "calibrate", "plain_score@train"} & reruns


@pytest.mark.slow
def test_experiment_reruns_from_quantize_down_and_lineage_is_certified(committed):
    """dvc exp run -S quantize.groups.mlp.bits=5, for real; then the metrics are there by name and the audit walks dvc.lock."""
    said = run(committed, "dvc", "exp", "run", "-n", "five-bits", "-S", "quantize.groups.mlp.bits=5")
    for node in (
        "prepare",
        "vocabulary",
        "tokenize@train",
        "train",
        "ema",
        "prequant_ttt",
        "calibrate",
        "plain_score@train",
        "text_compressors",
    ):
        assert f"Running stage '{node}'" not in said, node
    for node in ("quantize", "plain_score@quantize", "compress@zlib_9", "package", "evaluate@slot", "audit@slot", "report"):
        assert f"Running stage '{node}'" in said, node
    table = json.loads(run(committed, "dvc", "exp", "show", "--json"))
    assert "five-bits" in json.dumps(table) and "bits_per_byte.sliding" in json.dumps(table)
    written = json.loads((committed / "artifacts/audit/sliding/certificate.json").read_text())
    assert written["checks"]["lineage"]["verdict"] == "pass" and written["legal"]
    run(committed, "git", "checkout", "-q", "params.yaml")
