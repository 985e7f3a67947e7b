"""Recipes in small: what is a choice stays, what is a size shrinks, and each runs from text to certificate."""

import copy
import json

import pytest

from benchmarks import recipes as campaign
from stages.lib.node import params
from stages.lib.quant import groups
from stages.lib.training import schedule
from stages.recipes import __main__ as command
from stages.recipes import budget, catalog, describe, document, shrink
from tests.conftest import ROOT, set_leaf
from tests.test_recipes import AWQ, CHOICES, LOOPED, LQER, NEWEST_IS_QUICK, PARAMS, QAT, SEARCHED, clock_of, tree_of


@pytest.mark.parametrize("name", NEWEST_IS_QUICK)
def test_small_recipe_keeps_every_choice(name):
    full, small = tree_of(name), tree_of(name, "tiny")
    assert set(small["model"]["features"]) == set(full["model"]["features"])
    for path in CHOICES:
        assert params.lookup(small, path) == params.lookup(full, path), path
    assert small["model"]["mlp_width"] / small["model"]["width"] == full["model"]["mlp_width"] / full["model"]["width"]
    for key in ("ema", "power"):
        assert len(small["train"]["averages"][key]) == len(full["train"]["averages"][key])
    for key in ("swa_every", "lawa_every"):
        assert bool(small["train"]["averages"][key]) == bool(full["train"]["averages"][key])
    assert small["train"]["priming_steps"] == 1 and full["train"]["priming_steps"] == 20
    for path in ("train.muon.momentum_warmup_steps", "train.qat.ramp_steps"):
        assert 1 <= params.lookup(small, path) < shrink.STEPS < params.lookup(full, path), path
    assert bool(small["model"]["rope_trained_length"]) == bool(full["model"]["rope_trained_length"])
    assert (small["ema"]["average"] == "final") == (full["ema"]["average"] == "final")
    assert describe.describe(small).parameters < 1_000_000 and small["train"]["seconds"] is None


@pytest.mark.parametrize("name", catalog.stacks())
def test_small_recipe_quantizes_what_the_full_one_does(name):
    coded = {}
    for scale in ("full", "tiny"):
        tree = tree_of(name, scale)
        net = describe.network(tree)
        section = tree["quantize"]
        coded[scale] = {
            parameter
            for parameter, group in groups.by_parameter(net).items()
            if section["groups"][group]["method"] != "none" and net.get_parameter(parameter).numel() >= section["min_elements"]
        }
    assert coded["full"] == coded["tiny"]


@pytest.mark.parametrize("name", catalog.stacks())
def test_quantizer_is_the_one_that_was_published(name):
    """Every tensor of the full stack: what it becomes, against the tables of the reference."""
    tree = tree_of(name)
    section, net = tree["quantize"], describe.network(tree)
    assert section["clip_floor"] == (1.0 if name in SEARCHED else 0.0) and section["low_rank"]["matrices"] == (3 if name in LQER else 0)
    assert not section["overrides"] and not section["rotation"]["groups"] and not section["prune"]["codes"]
    found = {}
    for parameter, group in groups.by_parameter(net).items():
        chosen = section["groups"][group]
        coded = chosen["method"] != "none" and net.get_parameter(parameter).numel() >= section["min_elements"]
        found.setdefault(group, set()).add((chosen["method"], chosen["bits"], json.dumps(chosen["clip"])) if coded else "float16")
    quantiles = "[0.999, 0.9995, 0.9999, 0.99999, 1.0]"
    lite, plain = ("nearest", 6, quantiles), ("nearest", 8, "0.9999984")
    matrices = {"naive": plain, "pr549": lite, "pr1150": lite, "pr1493": ("gptq", 6, "12.85")}.get(name, ("gptq", 6, quantiles))
    method = "awq_lite" if name in AWQ else "gptq"
    assert found["mlp"] == {(method, 6, "11.5") if name in LQER else matrices}
    assert found["attention"] == {(method, 6, "13.0") if name in LQER else matrices}
    assert found["embedding"] == {plain if name in SEARCHED else ("gptq", 8, "20.0") if name == "pr1493" else (method, 7, "14.0")}
    assert found.get("table", {plain}) == {plain}
    gates = {key: {("nearest", 8, "1.0")} for key in ("pr1855", *AWQ)} | {"pr1172": {lite, "float16"}}
    assert found.get("projection", {"float16"}) == gates.get(name, {"float16"})


def test_names_of_averages_in_a_small_recipe_have_its_decays():
    """0.999 over 240 steps forgets as much as 0.9900 over 24; exponents of power averages are of the share of the run."""
    tree = copy.deepcopy(PARAMS)
    for path, value in {
        "train.steps": 10 * shrink.STEPS,
        "train.averages.ema": [0.999],
        "ema.average": "posthoc_ema_0.999",
        "ema.candidates": ["final", "ema_0.999", "posthoc_ema_0.99", "posthoc_power_6.94", "power_6.94", "swa"],
    }.items():
        set_leaf(tree, path, value)
    small = shrink.values(tree)
    assert small["train.averages.ema"] == [0.99] and small["ema.average"] == "posthoc_ema_0.99"
    assert small["ema.candidates"] == ["final", "ema_0.99", "posthoc_ema_0.9044", "posthoc_power_6.94", "power_6.94", "swa"]


@pytest.mark.parametrize("name", LOOPED)
def test_recurrence_of_a_small_recipe_starts_at_the_same_share_of_the_run(name):
    full, small = (budget.steps(tree["train"], tree["model"]["features"]) for tree in (tree_of(name), tree_of(name, "tiny")))
    assert small.total == shrink.STEPS and abs(small.plain / small.total - full.plain / full.total) < 0.5 / shrink.STEPS


@pytest.mark.parametrize("name", QAT)
def test_rounding_of_a_small_recipe_switches_on(name):
    section = tree_of(name, "tiny")["train"]
    clock = clock_of(section)
    scales = [
        schedule.iteration_scale(
            1.0, spent=clock.spent(step, 0.0), budget=clock.budget, warmdown=section["warmdown"], floor=section["learning_rate_floor"]
        )
        for step in range(section["steps"])
    ]
    on = [step for step, scale in enumerate(scales) if step >= section["qat"]["earliest_step"] and scale < section["qat"]["threshold"]]
    assert on and on[0] > section["steps"] / 2


def test_small_scale_is_for_stacks_and_for_known_budgets(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        command.main(["tiny", "--scale", "tiny"])
    assert "leave --scale out" in capsys.readouterr().err
    real = tree_of("pr1855")
    set_leaf(real, "train.clock", [])
    with pytest.raises(ValueError, match=r"set train\.clock"):
        shrink.values(real)


def assert_certified_as_the_method_deserves(tree: dict, row: dict) -> None:
    """`row`: of benchmarks/recipes.py. Adapting on val shows in the lineage, a fit on the targets when these are withheld."""
    run = tree["evaluate"]["runs"][row["run"]]
    leaks = run["evaluator"] == "slot" or run["options"].get("form") == "published"
    needed = ({"lineage"} if tree["prequant_ttt"]["enabled"] else set()) | ({"replay"} if leaks else set())
    failed = set(row["failed"].split())
    assert failed >= needed and bool(failed) == bool(needed), row
    assert row["verdict"] == ("not legal" if needed else "legal"), row


@pytest.mark.recipes
@pytest.mark.parametrize("name", catalog.whole())
def test_recipe_runs_from_text_to_certificate(name, tmp_path):
    tree = tree_of(name, "tiny")
    rows = campaign.run(name, tmp_path)
    assert {row["run"] for row in rows} == set(tree["evaluate"]["runs"])
    for row in rows:
        assert_certified_as_the_method_deserves(tree, row)


@pytest.mark.parametrize("name", catalog.whole())
def test_documented_verdicts_are_those_of_the_methods(name):
    tree = tree_of(name, "tiny")
    for row in document.certificates(campaign.TABLE)[name]:
        assert_certified_as_the_method_deserves(tree, row)
