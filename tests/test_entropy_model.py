"""One constant for all matrices: what it does to their steps, the budget that it meets, rates, the limit, and measured multipliers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.lib.quant import entropy_constrained, entropy_model, rate
from stages.lib.quant.entropy_model import Matrix, Model
from stages.lib.quant.settings import EntropySettings
from stages.sensitivity import allocation
from tests import water_filling
from tests.test_entropy_constrained import FULL, PLAIN, problem

SHAPES = {"blocks.0.up.weight": (96, 48), "blocks.1.up.weight": (96, 48), "blocks.0.down.weight": (48, 96), "table.weight": (200, 16)}


def model(options=FULL, **changes):
    found = {}
    for seed, (name, (rows, columns)) in enumerate(SHAPES.items()):
        weight, hessian = problem(rows, columns, seed=seed, spread=0.5)
        found[name] = replace(Matrix(weight * 3**seed, hessian, None, 1.0), **changes)
    return Model(found, options=options, device=torch.device("cpu"))


def bits_of(quantized):
    return entropy_model.estimated(quantized).bits


@pytest.mark.parametrize("bits_per_weight, options", [(2.0, PLAIN), (3.3, FULL), (5.0, PLAIN)])
def test_budget_is_met_from_below_and_closely(bits_per_weight, options):
    net = model(options)
    limit = bits_per_weight * net.num_weights
    found = entropy_model.finest(net, limit=limit, tolerance=0.002 * limit, bits_of=bits_of)
    assert 0.998 * limit <= found.bits <= limit and found.bits == bits_of(found.quantized)
    assert len(found.passes) <= 8 and found.passes[-1][1] == found.bits
    again = entropy_model.finest(net, limit=limit, tolerance=0.002 * limit, bits_of=bits_of)
    assert all(
        torch.equal(array, again.quantized[name].arrays[suffix])
        for name, matrix in found.quantized.items()
        for suffix, array in matrix.arrays.items()
    )


def test_budget_that_cannot_be_met_says_the_smallest_size_there_is():
    found = entropy_model.finest(model(PLAIN), limit=100.0, tolerance=10.0, bits_of=bits_of)
    assert f"cannot be coded in 12 bytes, the fewest found were {found.bits / 8:,.0f}" in found.missed
    assert found.bits == min(bits for _, bits in found.passes) > 100.0


def test_budget_is_met_by_sizes_that_jump():
    """A codec counts bytes, and some jump by kilobytes: then the last size below the limit is taken."""
    net = model(PLAIN)
    found = entropy_model.finest(net, limit=50_000.0, tolerance=50.0, bits_of=lambda quantized: 4096 * math.ceil(bits_of(quantized) / 4096))
    assert found.bits == 49_152


def test_steps_are_multiples_of_the_rms_so_that_rates_are_alike():
    net = model(options=PLAIN)
    quantized = net.quantize(0.4)
    for name, matrix in net.matrices.items():
        assert quantized[name].arrays["step"].item() == pytest.approx(0.4 * matrix.weight.square().mean().sqrt().item(), rel=1e-5)
    doubled = model(options=PLAIN, multiplier=2.0).quantize(0.4)
    assert all(doubled[name].arrays["step"].item() == pytest.approx(2 * quantized[name].arrays["step"].item()) for name in SHAPES)


def test_some_matrices_alone_are_quantized_as_with_the_others():
    net = model()
    one = net.quantize(0.5, only={"blocks.1.up.weight"})
    assert list(one) == ["blocks.1.up.weight"]
    assert torch.equal(one["blocks.1.up.weight"].weights(), net.quantize(0.5)["blocks.1.up.weight"].weights())


def test_matrix_without_a_hessian_is_quantized_as_if_its_inputs_were_alike():
    net = model(hessian=None)
    explicit = Model(
        {name: replace(matrix, hessian=torch.eye(matrix.weight.size(1))) for name, matrix in net.matrices.items()},
        options=FULL,
        device=torch.device("cpu"),
    )
    assert all(torch.equal(found.weights(), explicit.quantize(0.5)[name].weights()) for name, found in net.quantize(0.5).items())


SETTINGS = EntropySettings(
    bits_per_weight=3.3,
    target_bytes=None,
    trellis=8,
    column_steps=True,
    row_steps="gradient",
    frequency_exponent=0.25,
    gain=True,
    damping=0.005,
    rate_distortion=0.0,
)


def test_row_steps_come_from_gradients_and_of_tables_from_counts():
    weights = {f"{module}.weight": torch.randn(3, 4) for module in ("up", "table", "head", "other")}
    rising = torch.tensor([1.0, 4.0, 16.0])
    rows = {"up": rising, "head": rising.flip(0), "head.counts": torch.tensor([1.0, 1.0, 9.0]), "table.counts": rising}

    def steps(**changes):
        found = entropy_model.matrices(weights, {}, rows, settings=replace(SETTINGS, **changes), multipliers={"up.weight": 0.5})
        return {name: matrix.row_steps for name, matrix in found.items()}

    found = steps()
    assert torch.equal(found["up.weight"], entropy_constrained.row_steps(weights["up.weight"], rule="gradient", importance_M=rows["up"]))
    assert torch.equal(found["table.weight"], entropy_constrained.token_row_steps(rows["table.counts"], exponent=0.25))
    assert torch.equal(found["head.weight"], found["up.weight"].flip(0)) and found["other.weight"] is None
    assert torch.equal(steps(row_steps="none")["table.weight"], found["table.weight"]) and steps(row_steps="none")["up.weight"] is None
    assert steps(frequency_exponent=0.0)["table.weight"] is None
    assert set(steps(row_steps="none", frequency_exponent=0.0).values()) == {None}
    assert entropy_model.matrices(weights, {}, rows, settings=SETTINGS, multipliers={"up.weight": 0.5})["up.weight"].multiplier == 0.5
    with pytest.raises(ValueError, match=r"calibrate\.row_gradients"):
        entropy_model.matrices(weights, {}, {"table.counts": rows["table.counts"]}, settings=SETTINGS, multipliers={})


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"multiplier": 0.0}, "multiplier 0.0"),
        ({"weight": torch.full((4, 4), torch.nan)}, "not finite"),
        ({"hessian": torch.eye(3)}, "Hessian is"),
        ({"hessian": torch.zeros(4, 4)}, "w: a Hessian is all zero"),
    ],
)
def test_matrix_that_cannot_be_coded_is_named(change, sentence):
    matrix = replace(Matrix(torch.ones(4, 4), torch.eye(4), None, 1.0), **change)
    with pytest.raises(ValueError, match=sentence):
        Model({"w": matrix}, options=FULL, device=torch.device("cpu"))


def adaptive_bits(codes):
    """The order-0 adaptive code of rate.py written out, symbol by symbol: one class, no parity."""
    class_of = rate._gaussian_cells()
    variance = (codes.astype(np.float64) ** 2).mean()
    counts, bits = {}, 0.0
    for row, code in enumerate(codes.tolist()):
        above = (codes[:row].astype(np.float64) ** 2).sum()
        expected = max((above + rate.START * (variance + 1e-6)) / (row + rate.START), 1 / 64)
        key = int(math.log2(expected) * 3 + 24)
        histogram = counts.setdefault(key, rate.PRIOR * class_of[key, 0])
        bits -= math.log2(histogram[code + rate.ESCAPE] / histogram.sum())
        histogram = histogram.copy()
        histogram[code + rate.ESCAPE] += 1
        counts[key] = histogram
    return bits


def test_rate_is_the_length_of_an_adaptive_code():
    codes = np.round(np.random.default_rng(0).normal(0, 2.5, (300, 1))).astype(np.int8)
    found = rate.estimate({"w": {"codes": codes}}, {})
    assert found.codes["w"] == pytest.approx(adaptive_bits(codes[:, 0]), rel=1e-3) and found.weights == {"w": 300}


def test_rate_of_many_gaussian_codes_is_their_entropy():
    codes = np.round(np.random.default_rng(0).normal(0, 2.5, (2000, 64))).astype(np.int8)
    found = rate.estimate({"w": {"codes": codes}}, {}).bits_per_weight
    assert found == pytest.approx(math.log2(2.5) + entropy_model.GAUSSIAN_BITS, abs=0.02)


def test_rate_knows_columns_and_rows_that_differ():
    rng = np.random.default_rng(0)
    columns, rows = np.exp2(rng.uniform(1, 4, 64)), np.exp2(rng.uniform(-1, 1, 1000))[:, None]
    codes = np.round(rng.normal(0, 1, (1000, 64)) * columns * rows).astype(np.int16)
    ideal = np.log2(columns).mean() + np.log2(rows).mean() + entropy_model.GAUSSIAN_BITS
    blind = np.log2(codes.std()) + entropy_model.GAUSSIAN_BITS
    found = rate.estimate({"w": {"codes": codes}}, {}).bits_per_weight
    assert ideal < found < ideal + 0.15 < blind - 0.3


def test_rate_charges_scales_as_stored_steps_as_coded_and_escapes():
    codes = np.zeros((64, 8), np.int8)
    steps = np.random.default_rng(0).integers(-3, 4, 64).astype(np.int8)
    found = rate.estimate(
        {
            "a": {"codes": codes, "scales": np.arange(1, 65, dtype=np.float16)},
            "b": {"codes": codes, "step": np.float32(1), "row_steps": steps},
        },
        {},
    )
    assert found.sides["a"] == 64 * 16 and 32 + 100 < found.sides["b"] < 32 + 64 * 4
    few = np.tile(np.array([1, 1.0625], np.float16), 32)
    assert 64 + 32 < rate.side_bits("scales", few) < 64 + 32 + 32
    far = codes.astype(np.int32)
    far[0, 0] = 100_000
    assert rate.estimate({"a": {"codes": far}}, {}).codes["a"] > rate.estimate({"a": {"codes": codes}}, {}).codes["a"] + 2 * 16


def test_limit_at_high_rate_is_the_determinants_formula():
    weight, hessian = problem(spread=0.3)
    limit = water_filling.Limit.of(weight, hessian)
    determinant = torch.linalg.slogdet(hessian).logabsdet.item() / math.log(2)
    row_octaves = torch.log2(weight.double().square().mean(dim=1)).mean().item()
    distortion = limit.variances[0].item() / 2
    assert limit.bits(distortion) == pytest.approx(0.5 * (determinant / 60 + row_octaves - math.log2(distortion)), abs=1e-9)
    for bits in (0.1, 1.0, 4.0):
        assert limit.bits(limit.distortion(bits)) == pytest.approx(bits, abs=1e-9)
    assert limit.at(2 * limit.variances[-1].item()) == (pytest.approx(limit.variances.mean().item()), 0.0)


def test_quantizer_stays_above_the_limit_and_removes_most_of_what_rounding_leaves():
    weight, hessian = problem(rows=400, columns=64, spread=0.3)
    limit, gaps = water_filling.Limit.of(weight, hessian), []
    for options in (FULL, PLAIN):
        found = entropy_constrained.quantize(weight, hessian, step=0.02, row_steps_M=None, options=options)
        difference = (weight - found.weights()).double()
        distortion = (torch.sum((difference @ hessian) * difference) / weight.numel()).item()
        arrays = {suffix: array.numpy() for suffix, array in found.arrays.items()}
        gaps.append(rate.estimate({"w": arrays}, {"w": found.scheme}).bits_per_weight - limit.bits(distortion))
    assert 0.05 < gaps[0] < gaps[1] - 0.17


def test_units_are_matrices_or_kinds_by_depth():
    names = [f"blocks.{layer}.{part}" for layer in range(4) for part in ("up", "down")] + ["embedding.weight"]
    assert allocation.units(names, by="matrix", depth_groups=1) == {name: [name] for name in names}
    found = allocation.units(names, by="kind", depth_groups=2)
    assert found == {
        "blocks.up.0": ["blocks.0.up", "blocks.1.up"],
        "blocks.down.0": ["blocks.0.down", "blocks.1.down"],
        "blocks.up.1": ["blocks.2.up", "blocks.3.up"],
        "blocks.down.1": ["blocks.2.down", "blocks.3.down"],
        "embedding.weight": ["embedding.weight"],
    }


def test_multipliers_make_damage_per_weight_equal():
    damage, sizes = {"a": 4.0, "b": 1.0, "c": 2.0}, {"a": 100, "b": 100, "c": 200}
    found = allocation.multipliers(damage, sizes, least=0.1, most=10.0)
    assert [damage[unit] * found[unit] ** 2 / sizes[unit] for unit in damage] == pytest.approx([damage["a"] * found["a"] ** 2 / 100] * 3)
    assert sum(sizes[unit] * math.log2(found[unit]) for unit in damage) == pytest.approx(0.0, abs=1e-9)
    means = (sum(damage.values()) / 400, math.prod((damage[unit] / sizes[unit]) ** (sizes[unit] / 400) for unit in damage))
    assert allocation.predicted_gain(damage, sizes) == pytest.approx(0.5 * math.log2(means[0] / means[1]))
    assert allocation.multipliers({"a": 100.0, "b": -0.1}, {"a": 1, "b": 1}, least=0.4, most=2.5) == {"a": 0.4, "b": 2.5}
    assert allocation.multipliers({"a": 0.0}, {"a": 1}, least=0.4, most=2.5) == {"a": 1.0}


def test_damage_is_measured_with_one_unit_coarser_and_the_rest_as_it_is():
    net, seen = model(), []
    found = allocation.damages(
        net,
        {"u": ["blocks.0.up.weight"], "t": ["table.weight"]},
        constant=0.2,
        coarseness=2.5,
        loss_of=lambda changed: seen.append(changed) or float(len(seen)),
    )
    assert found == {"u": 1.0, "t": 2.0} and [list(changed) for changed in seen] == [["blocks.0.up.weight"], ["table.weight"]]
    assert torch.equal(seen[1]["table.weight"], net.quantize(0.5)["table.weight"].weights())


def test_allocation_by_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        allocation.multipliers({"a": math.inf}, {"a": 1}, least=0.5, most=2.5)
