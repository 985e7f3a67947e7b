"""The published stacks as recipes: headers, values, parameters, steps, costs; small ones that run from text to certificate."""

import copy
import importlib
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml
from dvc.utils.hydra import apply_overrides

from stages.lib.node import params, stage
from stages.lib.training import flops, schedule
from stages.prepare import settings as prepare
from stages.recipes import __main__ as command
from stages.recipes import budget, catalog, describe, document, fits, header, own
from stages.runtime.base import plugin
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT
from stages.runtime.scoring import evaluators
from stages.script import packing
from stages.train import settings as train
from tests.conftest import ROOT, set_leaf
from tests.test_stacks import STACKS

PARAMS = params.read(ROOT / "params.yaml")
STACK_OF = {"naive": "naive"} | {name: name.removeprefix("pr") for name in catalog.stacks() if name != "naive"}
NEWEST_IS_QUICK = [pytest.param(name, marks=() if name == "pr1855" else pytest.mark.slow) for name in catalog.stacks()]
BOTH = [
    pytest.param(name, scale, marks=() if name in ("naive", "pr1855") else pytest.mark.slow)
    for name in catalog.whole()
    for scale in ("full", "tiny")
]
QAT = ("pr549", "pr1150", "pr1019", "pr1306", "pr1172")
CHOICES = [
    f"model.{name}"
    for name in (
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "mlp_negative_slope",
        "query_gain",
        "logit_softcap",
        "tied_head",
        "initialisation",
    )
]
CHOICES += [
    f"train.{name}"
    for name in (
        "seed",
        "loader",
        "optimizer",
        "split",
        "schedule",
        "learning_rate_floor",
        "gradient_clip",
        "gradient_clip_scope",
        "qat.form",
        "qat.scope",
        "qat.bits",
        "adamw",
        "matrix_learning_rate",
    )
]
CHOICES += [f"quantize.{name}" for name in PARAMS["quantize"] if name not in ("min_elements", "awq")]
CHOICES += [
    "compress",
    "package.evaluator",
    "package.blob",
    "prequant_ttt.enabled",
    "prequant_ttt.split",
    "prequant_ttt.epochs",
    "vocabulary.transform",
    "vocabulary.normalization",
]
SEARCHED = ("naive", "pr549", "pr1150", "pr1019", "pr1172", "pr1306", "pr1285", "pr1399")  # quantiles, with a floor under the step
LQER = ("pr1855", "pr1958", "pr1945", "pr1953", "pr2014", "pr2135")
AWQ = ("pr1945", "pr1953", "pr2014")
LOOPED = ("pr1285", "pr1399", "pr1493", "pr1855", "pr1958", "pr1945", "pr1953", "pr2014", "pr2135")


def tree_of(name: str, scale: str = "full") -> dict:
    """params.yaml with the recipe set."""
    return catalog.applied(command.scaled(name, scale, PARAMS), PARAMS)


def clock_of(section: dict) -> schedule.Clock:
    return schedule.Clock(
        steps=section["steps"], seconds=section["seconds"], reserve_seconds=section["reserve_seconds"], knots=section["clock"]
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the recipes, to be broken."""
    shutil.copytree(catalog.FOLDER, tmp_path / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(catalog, "FOLDER", tmp_path / "recipes")
    monkeypatch.chdir(ROOT)
    return tmp_path / "recipes"


def edit(path, before: str, after: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


# headers


def test_fifteen_stacks_and_two_profiles():
    others = {name for name in set(catalog.names()) - set(catalog.whole()) if not catalog.is_sized(name)}
    assert set(STACK_OF.values()) == set(STACKS) - {"1060"} and others == {"tiny", "short"}


@pytest.mark.parametrize("name", catalog.stacks())
def test_header_is_complete_and_its_facts_agree_with_the_values(name):
    head, tree = catalog.read_header(name), tree_of(name)
    number = name.removeprefix("pr")
    assert name == "naive" or f"#{number}" in head.source
    assert tree["train"]["seed"] == head.published[0].seed, "the recipe is the first published run"
    assert all(1.0 < seed.bits_per_byte < 1.3 and 15_000_000 < seed.artifact_bytes < 16_100_000 for seed in head.published)
    assert len({seed.seed for seed in head.published}) == len(head.published) == (1 if name == "naive" else 3)
    tainted = tree["prequant_ttt"]["enabled"] or tree["package"]["evaluator"] == "slot"
    assert head.ruling.startswith("not legal" if tainted else "accepted")
    assert max(map(len, (catalog.FOLDER / f"{name}.yaml").read_text().splitlines())) <= 250


@pytest.mark.parametrize("field", header.FIELDS)
def test_header_without_a_field_is_refused_by_its_name(folder, field):
    lines = (folder / "pr1855.yaml").read_text().splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith(f"# {field}:"))
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith("#   "))
    (folder / "pr1855.yaml").write_text("".join(lines[:start] + lines[end:]))
    with pytest.raises(ValueError, match=f"recipe pr1855: the header has no '{field}'"):
        catalog.read_header("pr1855")


@pytest.mark.parametrize(
    "before, after, sentence",
    [
        ("# Parameters: 35,945,671", "# Parameters: 35945671", "write a whole number with commas"),
        ("# Steps: 4,945", "# Steps: about 4,945", "Steps is 'about 4,945'"),
        ("# Steps: 4,945", "# Stepz: 4,945", "neither a field"),
        ("# Steps: 4,945", "# Steps: 4,945\n# Steps: 4,945", "'Steps' twice"),
        ("# Parameters: 35,945,671\n# Steps: 4,945", "# Steps: 4,945\n# Parameters: 35,945,671", "another order"),
        ("seed 42: 1.05989 bits per byte", "seed 42: 1.05989 bpb", "Published has 'seed 42"),
        ("# Steps: 4,945", "#Steps: 4,945", "neither a field"),
    ],
)
def test_header_that_cannot_be_read_is_one_sentence(folder, before, after, sentence):
    edit(folder / "pr1855.yaml", before, after)
    with pytest.raises(ValueError, match=sentence):
        catalog.read_header("pr1855")


def test_published_seconds_may_be_unknown():
    entry = "seed 7: 1.5 bits per byte, 15,000 bytes"
    seeds = [header._seed(entry + more, "x") for more in ("", ", 9.5 s of training", ", 8 s of evaluation")]
    assert [(seed.train_seconds, seed.evaluate_seconds) for seed in seeds] == [(None, None), (9.5, None), (None, 8.0)]


# values


@pytest.mark.parametrize("name, scale", BOTH)
def test_values_load_through_every_stage_and_every_plugin_exists(name, scale):
    tree = tree_of(name, scale)
    for node, body in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        foreach = body.get("foreach")
        variants = foreach if isinstance(foreach, list) else [None] if foreach is None else list(params.lookup(tree, foreach.strip("${}")))
        main = importlib.import_module(f"stages.{node}.__main__").main
        for variant in variants:
            for schema in (hint for hint in main.__annotations__.values() if hasattr(hint, "SECTION")):
                params.section(tree, schema, variant=variant)
            stage.contract(main, variant=variant, tree=tree)  # fills the paths that name other parameters
    train.check(params.section(tree, train.TrainSettings))
    prepare.check(params.section(tree, prepare.PrepareSettings))
    package = tree["package"]
    runs = list(tree["evaluate"]["runs"].values())
    assert package["blob"] in {f"compress/{run}" for run in tree["compress"]["runs"]}
    assert {"evaluator": package["evaluator"], "options": package["options"]} in runs, "what ships is what is scored"
    assert set(package["evaluators"]) == {run["evaluator"] for run in runs}
    for run in runs:
        evaluators.build(plugin.load("evaluators", run["evaluator"]), None, run["options"])
    assert tree["audit"]["replay_reach"] is None, "every position can be drawn, so every run can be certified"
    averages = tree["train"]["averages"]
    assert tree["ema"]["average"] in ("final", "best") or tree["ema"]["average"] in {f"ema_{decay:g}" for decay in averages["ema"]}


@pytest.mark.parametrize("name", catalog.stacks())
def test_network_is_the_one_that_is_compared_with_the_formulas(name):
    """tests/test_stacks.py: equal to the plain network, wired as published."""
    tree = tree_of(name)
    values = STACKS[STACK_OF[name]][1]
    assert {key: tree["model"][key] for key in values if key != "vocabulary_size"} == {
        key: value for key, value in values.items() if key != "vocabulary_size"
    }
    assert tree["vocabulary"]["size"] == values["vocabulary_size"]


@pytest.mark.parametrize("name, scale", BOTH)
def test_flags_and_apply_leave_the_same_params(name, scale, tmp_path, monkeypatch):
    """Through DVC's own reading of -S."""
    wanted, found = tree_of(name, scale), command.scaled(name, scale, PARAMS)
    for way in ("flags", "applied"):
        shutil.copy(ROOT / "params.yaml", tmp_path / f"{way}.yaml")
    apply_overrides(tmp_path / "flags.yaml", [flag for flag in catalog.flags(found) if flag != "-S"])
    catalog.apply(found, tmp_path / "applied.yaml")
    assert params.read(tmp_path / "flags.yaml") == wanted and params.read(tmp_path / "applied.yaml") == wanted


# parameters, steps, costs


def test_check_passes_and_prints_every_stack(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command.main(["--check"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(catalog.stacks())


@pytest.mark.parametrize(
    "before, after", [("# Parameters: 35,945,671", "# Parameters: 35,945,672"), ("model.mlp_width: 2048", "model.mlp_width: 2040")]
)
def test_check_fails_where_header_and_network_differ(folder, capsys, before, after):
    edit(folder / "pr1855.yaml", before, after)
    assert command.main(["--check"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "THEY DIFFER" in line] == ["pr1855"]


def test_check_fails_on_a_header_without_the_number(folder, capsys):
    edit(folder / "pr1855.yaml", "# Parameters: 35,945,671\n", "")
    with pytest.raises(SystemExit) as stopped:
        command.main(["--check"])
    assert stopped.value.code == 1 and "no 'Parameters'" in capsys.readouterr().err


@pytest.mark.parametrize("name", catalog.stacks())
def test_virtual_clock_gives_the_published_steps_and_the_training_counts_the_same(name):
    tree = tree_of(name)
    section, recurrence = tree["train"], tree["model"]["features"].get("depth_recurrence")
    clock, found = clock_of(section), budget.steps(section, tree["model"]["features"])
    assert found.total == catalog.read_header(name).steps == schedule.total_steps(clock)
    assert bool(found.looped) == (recurrence is not None) == (name in LOOPED)
    if recurrence:
        starts = [
            step
            for step in range(found.total)
            if step >= recurrence["start_step"] and clock.spent(step, 0.0) / clock.budget >= recurrence["start_fraction"]
        ]
        assert starts == list(range(found.plain, found.total))


@pytest.mark.parametrize(
    "section, looped, expected",
    [
        ({"seconds": None, "steps": 20, "clock": []}, None, (20, 0)),
        ({"seconds": None, "steps": 20, "clock": []}, (0, 0.35), (7, 13)),
        ({"seconds": None, "steps": 20, "clock": []}, (9, 0.35), (9, 11)),
        ({"seconds": 10.0, "steps": 99, "clock": [[4, 4.0], [5, 6.0]]}, (0, 0.5), (5, 2)),  # 4 s, then 2 s a step: 10 s after 7
        ({"seconds": 10.0, "steps": 99, "clock": [[4, 4.0], [5, 6.0]]}, (0, 0.25), (3, 4)),
        ({"seconds": 10.0, "steps": 6, "clock": [[4, 4.0], [5, 6.0]]}, None, (6, 0)),
        ({"seconds": 10.0, "steps": 99, "clock": []}, None, None),
    ],
)
def test_steps_are_counted_from_the_budget(section, looped, expected):
    features = {} if looped is None else {"depth_recurrence": {"start_step": looped[0], "start_fraction": looped[1]}}
    found = budget.steps(section | {"reserve_seconds": 0.0}, features)
    assert found == (None if expected is None else budget.Steps(*expected))


def test_layers_cost_what_a_hand_count_gives():
    """The default network, written out: 2 layers, width 128, one key/value head of 64, 560 hidden features, rows of 128 tokens."""
    found = describe.describe(PARAMS)
    matrices = 128 * 128 + 2 * 64 * 128 + 128 * 128 + 2 * 128 * 560
    attention = 2 * 2 * 64 * sum(range(1, 129)) / 128  # scores and weighted sum, 2 heads of 64, over 1 to 128 keys
    assert [place.flops for place in found.places] == [2 * (matrices + attention)] * 2
    assert found.end_flops == 2 * 128 * 1024 and found.front_flops == 2 * 64 * 128, "the bigram hash is projected once"
    assert found.flops == found.plain_flops == 4 * (matrices + attention) + 2 * 64 * 128 + 2 * 128 * 1024
    assert found.training_flops == 3 * found.flops * PARAMS["train"]["steps"] * 2048


def test_recurrence_gates_and_hashes_are_counted_as_they_run():
    """#1855 and #549 by hand."""
    found = describe.describe(tree_of("pr1855"))
    layer = 2 * (2 * 512 * 512 + 2 * 256 * 512 + 2 * 512 * 2048 + 8 * 12 + 512 * 2049)
    assert found.flops == 17 * layer + 2 * 512 * 8192 and found.plain_flops == 11 * layer + 2 * 512 * 8192
    assert found.training_flops == 3 * 786_432 * (2186 * found.plain_flops + 2759 * found.flops)
    assert [place.layer for place in found.places] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [place.reads for place in found.places] == [None] * 8 + [7, 6, 5, 4, 3, 2, 1, 0, None]
    assert [i for i, place in enumerate(found.places) if "two_lane" in place.features] == [14, 15, 16]
    found = describe.describe(tree_of("pr549"))
    assert found.front_flops == 2 * 128 * 512 and found.front_features == ["bigram_hash", "smear_gate"]
    assert found.places[9].flops - found.places[10].flops == 2 * 128 * 256, "the value embedding is projected once"
    assert [place.layer for place in found.places if "xsa" in place.features] == [7, 8, 9, 10]


def test_features_that_rewire_the_network_are_described():
    """The default network with heads and tables that are not those of the plain one."""
    tree = catalog.applied(
        {
            "model.num_layers": 4,
            "model.features": {
                "skip_attention": {"layers": [0]},
                "factorised_embedding": {"width": 64},
                "multi_token_prediction": {"heads": 2, "weight": 0.1},
                "depth_recurrence": {"first_layer": 1, "last_layer": 2, "passes": 2, "start_step": 0, "start_fraction": 0.5},
                "untied_mlp": {"layers": [2], "parts": "down"},
            },
        },
        PARAMS,
    )
    found = describe.describe(tree)
    mlp = 2 * 2 * 128 * 560
    assert [place.layer for place in found.places] == [0, 1, 2, 1, 2, 3] and found.places[0].flops == mlp
    assert ["untied_mlp" in place.features for place in found.places] == [False] * 4 + [True, False]
    assert found.front_flops == 2 * 64 * 128 and found.front_features == found.end_features == ["factorised_embedding"]
    assert found.end_flops == 2 * 128 * 64 + 2 * 64 * 1024
    heads = 2 * 64 * 1024 * (127 + 126) // 128  # the heads see all but the last tokens of a row
    assert found.step_flops == 3 * (found.flops + heads)
    parts = {group.name: group for group in found.groups}
    assert parts["multi_token_prediction, not in the artifact"].parameters == 2 * 64 * 1024
    assert parts["multi_token_prediction, not in the artifact"].stored_bytes == 0


@pytest.mark.parametrize("name", NEWEST_IS_QUICK)
def test_groups_hold_every_parameter_once(name):
    tree = tree_of(name)
    found = describe.describe(tree)
    assert found.parameters == catalog.read_header(name).parameters == sum(weight.numel() for weight in describe.network(tree).parameters())
    features = {name for name in tree["model"]["features"]}
    parts = {group.name.removesuffix(" projection").removesuffix(" table"): group for group in found.groups}
    assert set(parts) - features == {"embedding", "attention matrices", "mlp matrices", "layer vectors"}
    embedding, bits = parts["embedding"], tree["quantize"]["groups"]["embedding"]["bits"]
    rows = tree["vocabulary"]["size"]
    assert embedding.stored_bytes == rows * 512 * bits // 8 + 2 * rows


@pytest.mark.parametrize("length", [1, 2, 7, 2048])
def test_attention_costs_its_causal_average(length):
    """4 query heads of 16 that share 2 key/value heads."""
    config = ModelConfig(
        vocabulary_size=40,
        num_layers=3,
        width=64,
        num_heads=4,
        num_kv_heads=2,
        mlp_width=24,
        mlp_negative_slope=0.5,
        rope_dims=4,
        rope_base=1e4,
        rope_trained_length=0,
        query_gain=1.5,
        logit_softcap=30.0,
        tied_head=True,
        embedding_std=0.02,
        initialisation="published",
        features={},
    )
    with torch.device("meta"):
        net = GPT(config)
    matrices = 3 * 2 * (2 * 64 * 64 + 2 * 32 * 64 + 2 * 64 * 24) + 2 * 64 * 40
    assert flops.forward(net, length=length) == matrices + 3 * 2 * 4 * 16 * (length + 1)
    assert flops.training(net, length=length) == 3 * flops.forward(net, length=length)


def test_work_that_is_neither_of_a_token_nor_of_attention_is_refused():
    assert flops.causal((10, 24, 42), length=3) == 8 + 2 * 2, "8 for a token, 2 for a key that a token reads"
    with pytest.raises(ValueError, match="10, 24 and 43, which is not attention"):
        flops.causal((10, 24, 43), length=3)


def test_product_without_a_counting_rule_is_refused():
    for product in (
        lambda: torch.zeros(2, 3) @ torch.zeros(3),
        lambda: torch.dot(torch.zeros(3), torch.zeros(3)),
        lambda: F.scaled_dot_product_attention(*[torch.zeros(1, 1, 4, 8)] * 3, is_causal=True),
    ):  # the kernel for CPUs
        with flops.counted(), pytest.raises(ValueError, match="no counting rule"):
            product()


def test_describe_prints_params_as_they_are_and_recipes(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command.main(["default", "--describe"]) == 0
    assert "786,962" in capsys.readouterr().out
    command.main(["pr1285", "--describe"])
    said = capsys.readouterr().out
    assert "34,401,371" in said and "5,530 steps, 2,530 of them with the recurrence on" in said and "value_embedding projection" in said
    real = copy.deepcopy(PARAMS)
    set_leaf(real, "train.seconds", 10.0)
    assert "set train.clock to know them" in describe.text("x", real)


# the page


@pytest.mark.slow
def test_page_is_what_the_recipes_and_the_certificates_give():
    page = document.page()
    assert document.PAGE.read_text() == page, "run: python -m stages.recipes --document"
    assert all(f"## {name}" in page for name in catalog.stacks())


def test_page_shows_the_verdict_and_why(tmp_path):
    (tmp_path / "recipes.csv").write_text(
        "recipe,run,verdict,failed,bits_per_byte,artifact_bytes,seconds\n"
        "pr1958,sliding,not legal,lineage order,3.1,400000,90\nnaive,sliding,legal,,3.1,400000,80\n"
    )
    rows = document.certificates(tmp_path / "recipes.csv")
    heads = {name: catalog.read_header(name) for name in ("naive", "pr1855", "pr1958")}
    overview = document._overview(list(heads), heads, rows)
    assert overview[2] == "| [naive](#naive) | 17,059,912 | 13,780 | 1.2244 | legal | accepted |"
    assert overview[3].endswith("| 1.0611 | not run | accepted |")
    assert overview[4].endswith("| not legal (fails 2 checks) | not legal |")
    assert document._ruled(catalog.read_header("pr1172")) == "not legal by the conditions, no organizer ruled"
    section = document._section("pr1958", heads["pr1958"], describe.describe(tree_of("pr1958")), rows["pr1958"])
    assert "* **Verdict here.** `sliding` is not legal (fails lineage, order). The small run took 90 s." in section
    assert "| 42 | 1.01398 | 15,911,549 | 600 | 366 |" in section


def test_table_of_certificates_is_of_all_stacks_and_agrees_with_the_rulings():
    rows = document.certificates(document.TABLE)
    assert set(rows) == set(catalog.whole())
    for name, found in rows.items():
        is_accepted = name in catalog.OWN or catalog.read_header(name).ruling.startswith("accepted")
        assert {row["verdict"] == "legal" for row in found} == {is_accepted}, name


@pytest.mark.slow
def test_own_recipe_is_that_of_2014_but_for_what_its_header_says():
    """And its budget on paper: what is in the 600 seconds fits, and every part of the sum has an error."""
    head, tree, base = catalog.read_header("caddie"), tree_of("caddie"), tree_of("pr2014")
    built = sum(weight.numel() for weight in describe.network(tree).parameters())
    assert not head.published and head.parameters == built == catalog.read_header("pr2014").parameters - 2
    assert head.steps == budget.steps(tree["train"], tree["model"]["features"]).total
    reserve = {"reserve_seconds": base["train"]["reserve_seconds"]}
    averages = {"averages": base["train"]["averages"]}
    assert tree["train"] | reserve | averages == base["train"]
    assert tree["model"]["features"] | {"asymmetric_cap": {"learned": False}} == base["model"]["features"]
    options = tree["package"]["options"]
    shared = {name for name in options if name not in ("network", "slots", "shares", "group", "precision")}
    assert {name: options[name] for name in shared} == {name: tree_of("pr2135")["package"]["options"][name] for name in shared}
    seconds = {name: value for name, value, _ in own.nodes(tree)}
    assert sum(seconds[f"`{node}`"] for node in ("train", "ema", "calibrate")) <= 600 and seconds["`evaluate@tilt`"] <= 600
    rows, (gain, error) = own.parts(), own.total(own.parts())
    assert gain == pytest.approx(sum(row["counted"] for row in rows)) and error > max(row["counted_error"] for row in rows) > 0
    assert f"**{own.published('pr2014') - gain / 1000:.4f} ± {error / 1000:.4f}**" in "\n".join(own.section(tree))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, "it should fit"),
        pytest.param({"package.cap_bytes": 15_000_000}, "WARNING: it would be", marks=pytest.mark.slow),
        ({"package.cap_bytes": 15_000_000, "quantize.entropy.target_bytes": "auto"}, "fitted to that"),
    ],
)
def test_whether_a_recipe_fits_is_said_from_sizes_alone(changes, said):
    tree = params.read(ROOT / "params.yaml")
    tree = catalog.applied(catalog.values("pr1855", tree) | changes, tree)
    found = fits.estimate(tree, catalog.read_header("pr1855"))
    assert said in fits.sentence("pr1855", found)
    assert found.is_exact and found.weights == 35_945_671 and found.needed == 8 * (found.cap_bytes - found.code_bytes) / found.weights


@pytest.mark.slow
def test_script_of_a_small_model_is_not_shortened_to_say_that_it_fits():
    tree = params.read(ROOT / "params.yaml")
    found, exact = fits.estimate(tree), len(packing.wrapped(packing.contents(tree)).encode())
    assert not found.is_exact and exact < found.code_bytes < 4 * exact
    assert f"a script of at most {found.code_bytes:,} bytes counts too" in fits.sentence("default", found)


def test_gaussian_of_the_steps_is_what_gaussian_weights_take():
    """A row of normal numbers at #1493's steps has the entropy that the estimate says."""
    tree = params.read(ROOT / "params.yaml")
    settings = params.section(catalog.applied(catalog.values("pr1493", tree), tree), fits.QuantizeSettings)
    weight = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    step = weight.std(dim=1, keepdim=True) * settings.groups.mlp.clip / 31
    counts = torch.unique((weight / step).round(), return_counts=True)[1] / weight.numel()
    assert fits._bits(settings.groups.mlp, settings) == pytest.approx(-(counts * counts.log2()).sum().item(), abs=0.02)


@pytest.mark.parametrize("name", ["default", "tiny", *catalog.stacks()])
def test_packed_options_are_those_with_which_the_artifact_is_evaluated(name):
    tree = params.read(ROOT / "params.yaml")
    tree = tree if name == "default" else catalog.applied(catalog.values(name, tree), tree)
    packed = tree["package"]["other_options"] | {tree["package"]["evaluator"]: tree["package"]["options"]}
    for name in tree["package"]["evaluators"]:
        assert packed[name] in [run["options"] for run in tree["evaluate"]["runs"].values() if run["evaluator"] == name]
