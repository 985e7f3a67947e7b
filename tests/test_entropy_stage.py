"""The method `entropy` of the stage `quantize`, and the stage `sensitivity`: a network through both, budgets, sentences."""

import json
import math
from dataclasses import replace

import pytest
import torch

from stages.calibrate.hessians import Statistics
from stages.fill_cap import __main__ as fill_cap
from stages.lib.node import params, tensors
from stages.lib.quant import entropy_model, groups
from stages.lib.quant.network import quantize
from stages.quantize import reporting as table
from stages.runtime.weights import dequantize
from stages.script import packing
from tests.conftest import run_node, set_leaf
from tests.quantizing import NEAREST, decoded, settings_with
from tests.test_features import PLAIN
from tests.test_quantize_stage import FEATURES
from tests.test_stacks import documents, random_model

ENTROPY = {"method": "entropy"}


@pytest.fixture(scope="module")
def rich():
    """(network, state, group of each parameter, Hessians, row statistics, tokens)."""
    net, (x, _) = random_model(replace(PLAIN, features=FEATURES)), documents((200, 300))
    statistics = Statistics(net, row_gradients=True)
    statistics.add(x, generator=torch.Generator().manual_seed(0))
    state = {name: weight.detach() for name, weight in net.named_parameters()}
    return net, state, groups.by_parameter(net), statistics.hessians(), statistics.rows(), x


def result_of(rich, settings, **multipliers):
    _, state, group_of, grams, rows, _ = rich
    return quantize(state, group_of, grams, settings, rows=rows, multipliers=multipliers, device=torch.device("cpu"))


def estimate(result):
    return entropy_model.estimated(result.matrices).bits_per_weight


def test_network_comes_back_and_more_bits_bring_it_closer(rich):
    net, state, _, _, _, x = rich
    distances = []
    for bits in (4.0, 6.0):
        result = result_of(rich, settings_with({"entropy.bits_per_weight": bits}, every=ENTROPY))
        assert bits - 0.01 <= estimate(result) <= bits and result.budget.summary()["bits_per_weight"] == estimate(result)
        back = dequantize.build(decoded(result), net.config.to_dict())
        distances.append((back(x) - net(x)).square().mean().item())
        assert {found.scheme["trellis"] for found in result.matrices.values()} == {8}
    assert distances[1] < distances[0] / 4
    assert list(result.matrices) == [name for name in state if name in result.matrices]


def test_groups_may_mix_methods(rich):
    settings = settings_with({"entropy.bits_per_weight": 4.0}, mlp=ENTROPY, table=NEAREST, projection=NEAREST)
    result = result_of(rich, settings)
    assert {name for name, found in result.matrices.items() if found.scheme} == {name for name in result.budget.quantized}
    assert all(name.startswith("blocks.") and ".mlp." in name for name in result.budget.quantized)
    assert len(table.rows(result, rich[1], rich[3])) == len(result.matrices) + 1


def test_target_in_bytes_counts_what_other_groups_and_float16_take(rich):
    leaves = {"entropy.target_bytes": 8_000}
    result = result_of(rich, settings_with(leaves, every=ENTROPY, table=NEAREST))
    rest = 2 * sum(weight.numel() for weight in result.float16.values())
    assert rest > 0 and 0.995 * 8_000 <= entropy_model.estimated(result.matrices).bits / 8 + rest <= 8_000 + 32
    assert result.budget.summary()["estimated_bytes"] <= 8_000


def test_target_that_cannot_be_met_is_said_and_bits_per_weight_count_in_its_place(rich):
    plain = result_of(rich, settings_with({"entropy.trellis": 0}, every=ENTROPY, table=NEAREST))
    for target in (500, 1700):  # less than float16 alone, and less than the matrices with every code 0
        result = result_of(rich, settings_with({"entropy.target_bytes": target, "entropy.trellis": 0}, every=ENTROPY, table=NEAREST))
        assert f"target_bytes {target:,} cannot be met" in result.budget.summary()["missed"]
        assert result.budget.constant == plain.budget.constant and plain.budget.missed is None


def test_multipliers_scale_the_steps_of_their_matrices(rich):
    settings = settings_with({"entropy.bits_per_weight": 4.0, "entropy.trellis": 0}, mlp=ENTROPY, projection=NEAREST)
    plain, changed = result_of(rich, settings), result_of(rich, settings, **{"blocks.0.mlp.up.weight": 0.5})
    ratio = {name: (changed.matrices[name].arrays["step"] / plain.matrices[name].arrays["step"]).item() for name in plain.budget.quantized}
    others = {round(value, 4) for name, value in ratio.items() if name != "blocks.0.mlp.up.weight"}
    assert len(others) == 1 and ratio["blocks.0.mlp.up.weight"] == pytest.approx(others.pop() / 2, rel=1e-3)


@pytest.mark.parametrize(
    "leaves, sentence",
    [
        ({"entropy.bits_per_weight": 0.0}, "bits_per_weight is 0.0"),
        ({"entropy.target_bytes": 0}, "target_bytes is 0"),
        ({"entropy.damping": -1.0}, "damping"),
        ({"entropy.frequency_exponent": 2.0}, "frequency_exponent is 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(leaves, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings_with(leaves)


def test_rotation_and_zeroing_of_trellis_codes_are_refused(rich):
    with pytest.raises(ValueError, match="takes no rotation"):
        result_of(rich, settings_with({"rotation.groups": ["mlp"], "rotation.block": 8}, mlp=ENTROPY, projection=NEAREST))
    with pytest.raises(ValueError, match="trellis"):
        result_of(rich, settings_with({"prune.codes": 3, "entropy.bits_per_weight": 4.0}, mlp=ENTROPY, projection=NEAREST))


@pytest.fixture
def entropy_run(project):
    """A copy of the finished pipeline with every group entropy constrained and the allocation on; (folder, parsed params.yaml)."""
    tree = params.read(project / "params.yaml")
    for group in groups.GROUPS:
        set_leaf(tree, f"quantize.groups.{group}.method", "entropy")
    set_leaf(tree, "quantize.entropy.bits_per_weight", 4.0)
    set_leaf(tree, "sensitivity.enabled", True)
    set_leaf(tree, "sensitivity.tokens", 512)
    (project / "params.yaml").write_text(json.dumps(tree))
    return project, tree


@pytest.mark.slow
def test_allocation_is_the_identity_when_off_and_measures_every_matrix_when_on(entropy_run):
    folder, _ = entropy_run
    off = json.loads((folder / "artifacts/sensitivity/multipliers.json").read_text())
    assert off == {"multipliers": {}}
    run_node("sensitivity")
    on = json.loads((folder / "artifacts/sensitivity/multipliers.json").read_text())["multipliers"]
    state, _ = tensors.load(folder / "artifacts/prequant_ttt/model.safetensors")
    assert set(on) == {name for name, weight in state.items() if weight.ndim == 2 and not name.startswith("skip")}
    assert all(0.4 <= value <= 2.5 for value in on.values()) and on["embedding.weight"] == 0.4  # 12 steps taught the rest little
    metrics = json.loads((folder / "artifacts/sensitivity/metrics.json").read_text())
    assert metrics["expected_gain_bits_per_weight"] > 0 and all(value > -1e-6 for value in metrics["damage_nats"].values())
    run_node("quantize")
    run_node("plain_score", "quantize")
    before, after = (
        json.loads((folder / f"artifacts/plain_score/{stage}/metrics.json").read_text())["bits_per_byte"]
        for stage in ("prequant_ttt", "quantize")
    )
    assert before - 0.02 < after < before + 0.1


@pytest.mark.slow
def test_start_by_gradients_is_reverse_water_filling_halved_and_measurement_goes_on_from_it(entropy_run):
    folder, tree = entropy_run
    set_leaf(tree, "sensitivity.start", "gradient")
    for enabled in (False, True):
        set_leaf(tree, "sensitivity.enabled", enabled)
        (folder / "params.yaml").write_text(json.dumps(tree))
        if not enabled:
            set_leaf(tree, "calibrate.row_gradients", True)
            (folder / "params.yaml").write_text(json.dumps(tree))
            run_node("calibrate")
        run_node("sensitivity")
        found = json.loads((folder / "artifacts/sensitivity/multipliers.json").read_text())["multipliers"]
        assert ("embedding.weight" in found) == enabled
        if not enabled:
            (state, _), (hessians, _), (rows, _) = (
                tensors.load(folder / f"artifacts/{name}.safetensors")
                for name in ("prequant_ttt/model", "calibrate/hessians", "calibrate/rows")
            )
            log_ratios = {}
            for name, hessian in hessians.items():
                if name == "embedding" or not rows[name].max() > 0:
                    continue
                order = hessian.double().diagonal().argsort(descending=True, stable=True)
                damped = hessian.double() + 0.005 * hessian.double().diagonal().mean() * torch.eye(len(hessian)).double()
                lower = torch.linalg.cholesky(damped[order.flip(0)][:, order.flip(0)])
                gradients = rows[name].double() + 0.02 * rows[name].double().mean()
                rms = state[f"{name}.weight"].double().square().mean().sqrt()
                log_ratios[name] = float(-lower.diagonal().log().mean() - gradients.log().mean() / 2 - rms.log())
            mean = sum(log_ratios.values()) / len(log_ratios)
            expected = {f"{name}.weight": min(max(math.exp((ratio - mean) / 2), 0.4), 2.5) for name, ratio in log_ratios.items()}
            assert found == pytest.approx(expected, rel=1e-4)


def test_allocation_of_a_split_that_is_too_short_is_refused(entropy_run, capsys):
    folder, tree = entropy_run
    for leaf in ("tokens", "sequence_length"):
        set_leaf(tree, f"sensitivity.{leaf}", 10**7)
    (folder / "params.yaml").write_text(json.dumps(tree))
    with pytest.raises(SystemExit):
        run_node("sensitivity")
    assert "fewer than sensitivity.sequence_length" in capsys.readouterr().err


def test_without_auto_nothing_is_fitted(project):
    assert json.loads((project / "artifacts/fill_cap/target.json").read_text()) == {"target_bytes": None}


@pytest.mark.slow
def test_auto_target_fills_the_cap_with_the_finest_weights_that_the_artifact_can_hold(entropy_run, capsys):
    folder, tree = entropy_run
    set_leaf(tree, "quantize.entropy.target_bytes", "auto")
    set_leaf(tree, "quantize.entropy.trellis", 0)  # quicker
    set_leaf(tree, "sensitivity.enabled", False)
    (folder / "params.yaml").write_text(json.dumps(tree))
    run_node("script")
    run_node("fill_cap")  # 16 MB do not bind a model of this size
    whole = json.loads((folder / "artifacts/fill_cap/metrics.json").read_text())
    assert len(whole["rounds"]) == 1 and whole["artifact_bytes"] < 1_000_000
    cap = whole["artifact_bytes"] - 10_000
    set_leaf(tree, "package.cap_bytes", cap)
    (folder / "params.yaml").write_text(json.dumps(tree))
    for node in (("script",), ("fill_cap",), ("quantize",), ("compress", "brotli_11"), ("package",)):
        run_node(*node)
    assert "stages/fill_cap/__main__.py" in packing.contents(tree), "the one script searches for itself"
    packed = json.loads((folder / "artifacts/package/metrics.json").read_text())["artifact_bytes"]
    found = json.loads((folder / "artifacts/fill_cap/metrics.json").read_text())
    assert packed == found["artifact_bytes"] and 0.99 * cap <= packed <= cap and len(found["rounds"]) > 1
    set_leaf(tree, "package.cap_bytes", 20_000)
    (folder / "params.yaml").write_text(json.dumps(tree))
    run_node("fill_cap")
    assert "no artifact of at most 20,000 bytes was found" in capsys.readouterr().out
    assert json.loads((folder / "artifacts/fill_cap/target.json").read_text()) == {"target_bytes": None}


@pytest.mark.parametrize(
    "cost", [lambda n: n, lambda n: 1.3 * n, lambda n: 2_500 * n**0.48, lambda n: 25 * n**0.8 + 40_000 * (n > 2_000_000)]
)
def test_search_meets_the_cap_whatever_a_codec_makes_of_the_estimate(cost):
    tried = []

    def attempt(target):
        tried.append(target)
        return round(cost(0.999 * target)) + 70_000, entropy_model.Budget(1.0, {}, 8 * 0.999 * target, (), 8e9)

    target, size, rounds = fill_cap.search(attempt, cap=3_000_000)
    assert 3_000_000 * (1 - entropy_model.TOLERANCE) <= size <= 3_000_000 and target in tried and len(rounds) == len(tried) < 10


@pytest.mark.parametrize(
    "leaf, value, sentence",
    [
        ("package.blob", "smallest", "set package.blob to compress/<run>"),
        ("package.blob", "compress/brotly_11", "did you mean 'brotli_11'"),
        ("quantize.entropy.target_bytes", "automatic", "it takes int | auto | null"),
    ],
)
def test_what_cannot_be_fitted_is_refused(entropy_run, capsys, leaf, value, sentence):
    folder, tree = entropy_run
    set_leaf(tree, "quantize.entropy.target_bytes", "auto")
    set_leaf(tree, leaf, value)
    (folder / "params.yaml").write_text(json.dumps(tree))
    with pytest.raises(SystemExit):
        run_node("fill_cap")
    assert sentence in capsys.readouterr().err


def test_fit_needs_an_entropy_constrained_group(project, capsys):
    tree = params.read(project / "params.yaml")
    set_leaf(tree, "quantize.entropy.target_bytes", "auto")
    (project / "params.yaml").write_text(json.dumps(tree))
    with pytest.raises(SystemExit):
        run_node("fill_cap")
    assert "no group has the method entropy" in capsys.readouterr().err
