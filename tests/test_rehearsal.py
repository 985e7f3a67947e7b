"""Rehearsals: a recipe at its published sizes with hardly any work, measured node by node, and projected to the published run."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import growth, rehearse
from stages.lib.node import params
from stages.lib.training import flops
from stages.recipes import catalog, describe, document, projection, rehearsal
from stages.runtime.base import plugin
from tests.conftest import ROOT, set_leaf
from tests.test_recipes import NEWEST_IS_QUICK, PARAMS

SIZES = (
    "model.num_layers",
    "model.width",
    "model.num_heads",
    "model.num_kv_heads",
    "model.mlp_width",
    "vocabulary.size",
    "vocabulary.transform",
    "train.sequence_length",
    "train.optimizer",
    "calibrate.sequence_length",
    "quantize",
    "plain_score",
    "compress",
    "package.blob",
    "package.evaluators",
    "package.cap_bytes",
)
GROWTH = {part: {"seconds": 0.1, "bytes": 8e6, "exponent": 1.0} for part in document.PARTS}


def tree_of(name: str) -> tuple[dict, dict]:
    """The parsed params.yaml of a recipe, and of its rehearsal."""
    full = catalog.applied(catalog.values(name, PARAMS), PARAMS)
    return full, catalog.applied(rehearsal.values(full), full)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEWEST_IS_QUICK)
def test_rehearsal_keeps_every_size_that_decides_whether_a_run_fits(name):
    full, cut = tree_of(name)
    for path in SIZES:
        assert params.lookup(cut, path) == params.lookup(full, path), path
    assert describe.describe(cut).parameters == describe.describe(full).parameters == catalog.read_header(name).parameters
    assert set(cut["evaluate"]["runs"]) == set(full["evaluate"]["runs"])
    for run, settings in full["evaluate"]["runs"].items():
        changed = {key for key, value in settings["options"].items() if cut["evaluate"]["runs"][run]["options"][key] != value}
        assert changed <= {"batch", "phases"}
    for path in ("train.steps", "calibrate.sequences", "audit.replayed", "audit.round_trip", "train.batch_tokens"):
        assert params.lookup(cut, path) <= params.lookup(full, path), path


def test_rehearsal_takes_a_given_tokenizer():
    full, _ = tree_of("pr1855")
    cut = rehearsal.values(full, tokenizer="own.model")
    assert (cut["vocabulary.source"], cut["vocabulary.path"]) == ("file", "own.model")


@pytest.mark.slow
def test_cost_of_a_node_counts_what_its_processes_use(tmp_path):
    """A process of a process takes 200 MB and about a second of a core."""
    busy = "while time.process_time() < 1: pass"
    inner = f"import time; kept = bytearray(200_000_000)\n{busy}\ntime.sleep(1)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    found = rehearse.measured("node", [sys.executable, "-c", outer], tmp_path)
    assert 1 <= found.cpu_seconds < 4 and found.seconds >= 2 and 200e6 <= found.peak_bytes < 400e6
    with pytest.raises(SystemExit, match="what it said"):
        rehearse.measured("node", [sys.executable, "-c", "import sys; print('what it said'); sys.exit(3)"], tmp_path)


def test_text_is_cut_into_documents_at_line_ends(tmp_path):
    texts = ["a line of text\n" * 400, "x" * 9000 + "\n", "short\n"]
    used = rehearse.write_text(tmp_path / "data/text.jsonl", iter(texts))
    found = [json.loads(line)["text"] for line in (tmp_path / "data/text.jsonl").read_text().splitlines()]
    assert "".join(found) == texts[0] and used == len(texts[0]) and all(len(text) <= rehearse.DOCUMENT_BYTES for text in found)
    assert rehearse.write_text(tmp_path / "less.jsonl", iter(texts), num_bytes=10) == len(found[0])


def test_nodes_are_all_nodes_of_the_pipeline_in_the_order_in_which_they_run(tmp_path):
    from dvc.repo import Repo

    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    found = rehearse.nodes(tmp_path)
    graph = {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages}
    assert sorted(found) == sorted(graph)
    made_by = {out.def_path: name for name, stage in graph.items() for out in stage.outs}
    for name, stage in graph.items():
        for dep in stage.deps:
            if dep.def_path in made_by:
                assert found.index(made_by[dep.def_path]) < found.index(name), (name, dep.def_path)


def test_projection_is_arithmetic_from_published_sizes():
    full, _ = tree_of("naive")
    head = catalog.read_header("naive")
    nodes = [{"node": node, "cpu_seconds": 7.0} for node in ("train", "quantize", "evaluate@sliding", "audit@sliding")]
    rows = {row.node: row for row in projection.rows(full, head, {"nodes": nodes, "decode_seconds": 1.0}, GROWTH)}
    assert (rows["train"].one, rows["train"].eight) == (8 * 600.0, 600.0)
    assert rows["quantize"].one == rows["quantize"].eight == 7.0
    targets, each = 62_021_845, flops.forward(describe.network(full), length=1024)
    network = targets * each / (projection.SHARE * projection.PEAK_FP32)
    around = 1.0 + 0.1 * targets / 1e6
    assert rows["evaluate@sliding"].one == pytest.approx(network + 0.1 * targets / 1e6 + around)
    assert rows["evaluate@sliding"].eight == pytest.approx((network + 0.1 * targets / 1e6) / 8 + around)
    one_by_one = max(1024 * each / (projection.SHARE * projection.PEAK_FP32), projection.kernels(describe.network(full), 1024) * 5e-6)
    assert rows["certify@sliding"].one == pytest.approx(2 * targets * one_by_one)


def test_projection_knows_the_evaluators_of_the_rehearsed_recipes_and_says_where_it_does_not():
    full, _ = tree_of("pr1855")
    cost = describe.describe(full)
    runs = full["evaluate"]["runs"]
    learning, sliding = (projection.work(runs[name], full, cost, 1000, 47_853_343) for name in ("ttt_phased", "sliding"))
    assert learning.kernels == pytest.approx(4 * 1000 / 48) and sliding.flops == 32 * cost.flops
    assert projection.work({"evaluator": "mixture", "options": {"window": 8}}, full, cost, 1, 10) is None
    assert not projection._carries(runs["sliding"]) and projection._carries(runs["ttt_phased"])


def test_growth_finds_work_that_is_quadratic(monkeypatch):
    monkeypatch.setattr(growth, "measure", lambda tokens: {"even": (tokens / 1e6, tokens), "square": ((tokens / 1e6) ** 2, 8 * tokens)})
    found = growth.growth((1_000_000, 4_000_000))
    assert found["even"] == {"seconds": 1.0, "bytes": 1_000_000, "exponent": 1.0} and found["square"]["exponent"] == 2.0


def test_growth_measures_every_part_that_the_page_names():
    assert set(growth.measure(20_000)) == set(document.PARTS)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Rehearses naive with small sizes in tmp_path/run: texts of a few modules, and everything else as in a rehearsal."""
    small = {"model.width": 64, "model.mlp_width": 128, "vocabulary.size": 512, "train.sequence_length": 64}
    small |= {
        "tokenize.shard_tokens": 20_000,
        "calibrate.sequence_length": 64,
        "ema.window": 64,
        "plain_score.window": 64,
        "train.threads": 1,
        "model.rope_dims": 8,
    }
    values = rehearsal.values

    def smaller(tree, **more):
        tree = catalog.applied(small, tree)
        options = {"window": 64, "stride": 64, "batch": 4}
        set_leaf(tree, "package.options", options)
        set_leaf(tree, "evaluate.runs", {"sliding": {"evaluator": "sliding", "options": options}})
        return small | values(tree, **more)

    monkeypatch.setattr(rehearsal, "values", smaller)
    texts = tmp_path / "texts"
    texts.mkdir()
    for path in sorted(Path(plugin.__file__).parents[2].rglob("*.py"))[:60]:
        (texts / f"{path.parent.name}-{path.stem}.txt").write_text(path.read_text())
    return lambda: rehearse.rehearse("naive", tmp_path / "run", text=texts)


@pytest.mark.slow
def test_nodes_of_a_tiny_configuration_run_and_are_measured(tiny, tmp_path, monkeypatch):
    """The first nodes; the slow test below goes on to the certificate. What was measured is not run again."""
    monkeypatch.setattr(rehearse, "nodes", lambda folder: ["prepare", "vocabulary"])
    with pytest.raises(FileNotFoundError, match="tokenize"):  # there are no facts yet of nodes that did not run
        tiny()
    costs = rehearse.run(tmp_path / "run")
    assert [cost.node for cost in costs] == ["prepare", "vocabulary"]
    for cost in costs:
        assert cost.seconds > 0 and cost.cpu_seconds > 0 and cost.peak_bytes > 1e6
    sizes = [path.stat().st_size for path in (tmp_path / "run/artifacts/prepare").rglob("*") if path.is_file()]
    assert costs[0].output_bytes == sum(sizes)


@pytest.mark.slow
def test_tiny_configuration_is_rehearsed_from_text_to_certificate(tiny, tmp_path):
    found = tiny()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert {cost["node"].split("@")[0] for cost in found["nodes"]} == set(stages)
    assert found["runs"]["sliding"]["verdict"] in ("legal", "not ruled") and found["val_tokens"] > 1000
    assert found["package"]["artifact_bytes"] < 1_000_000 and found["decode_seconds"] >= 0
    full, _ = tree_of("naive")
    rows = projection.rows(full, catalog.read_header("naive"), found, GROWTH)
    assert [row.node for row in rows] == [cost["node"] for cost in found["nodes"]] + ["certify@sliding"]
    assert all(row.one > 0 and row.eight > 0 for row in rows)
