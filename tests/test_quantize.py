"""Quantizers against references of their own: brute-force GPTQ, the rules of steps, rotation, corrections, the laws of rate and error."""

import math

import numpy as np
import pytest
import torch

from stages.lib.quant import gptq, gptq_lite, hessians, low_rank, nearest, prune, rotation, scales, ternary
from stages.lib.quant.quantized import Quantized
from stages.quantize.table import entropy_bits, stored_bits
from stages.runtime import container, dequantize
from stages.runtime.model.gpt import GPT, initialise
from tests.test_model import CONFIG, tokens

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(rows=6, columns=20, samples=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(samples, columns, generator=generator) @ mixing
    return torch.randn(rows, columns, generator=generator), inputs.mT @ inputs


def sdclip(weight, *, bits, clip, stored_as="float16", floor=0.0):
    return scales.steps(scales.clips(weight, rule="sigmas", clip=clip), bits=bits, clip_floor=floor, stored_as=stored_as)


def solved(weight, hessian, *, bits, clip=None, steps=None, damping=0.01, block=8, sort_columns=True):
    factor = gptq.factorise(hessian, damping=damping, sort_columns=sort_columns)
    return gptq.quantize(weight, factor, bits=bits, candidates=[steps or sdclip(weight, bits=bits, clip=clip)], block=block)


def rounded(weight, *, bits, clip):
    return nearest.quantize(weight, bits=bits, candidates=[sdclip(weight, bits=bits, clip=clip)])


def codes(quantized):
    return quantized.arrays["codes"]


# GPTQ


def reference_gptq(weight, hessian, steps, limit, damping):
    """Optimal brain surgeon, one column at a time, inverting what is left of H anew at each step."""
    weight, found = weight.double().clone(), torch.zeros_like(weight)
    hessian = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(len(hessian))
    for j in range(weight.size(1)):
        inverse = torch.linalg.inv(hessian[j:, j:])
        found[:, j] = torch.round(weight[:, j] / steps.double()).clamp(-limit, limit)
        error = (weight[:, j] - steps.double() * found[:, j]) / inverse[0, 0]
        weight[:, j:] -= torch.outer(error, inverse[0])
    return found


def test_gptq_equals_optimal_brain_surgeon_column_by_column():
    weight, hessian = problem()
    steps = sdclip(weight, bits=4, clip=3.0)
    fast = solved(weight, hessian, bits=4, steps=steps, block=7, sort_columns=False)
    assert torch.equal(codes(fast).double(), reference_gptq(weight, hessian, steps.values, 7, 0.01).double())


def test_columns_are_visited_by_decreasing_diagonal():
    weight, hessian = problem()
    order = torch.argsort(hessian.diagonal(), descending=True)
    steps = sdclip(weight, bits=4, clip=3.0)
    sorted_by_hand = reference_gptq(weight[:, order], hessian[order][:, order], steps.values, 7, 0.01)
    assert torch.equal(codes(solved(weight, hessian, bits=4, steps=steps))[:, order].double(), sorted_by_hand.double())


@pytest.mark.parametrize("block", [1, 3, 20, 128])
def test_block_size_does_not_change_the_codes(block):
    weight, hessian = problem()
    assert torch.equal(codes(solved(weight, hessian, bits=5, clip=4.0, block=block)), codes(solved(weight, hessian, bits=5, clip=4.0)))


def test_block_of_1_equals_block_of_128_on_a_matrix_of_several_blocks():
    weight, hessian = problem(rows=8, columns=300, samples=900)
    one, many = (codes(solved(weight, hessian, bits=6, clip=12.85, block=block)) for block in (1, 128))
    assert (one != many).float().mean() < 0.002  # ties of rounding


@pytest.mark.parametrize("sort_columns", [True, False])
def test_identity_hessian_gives_rounding_to_nearest(sort_columns):
    weight, _ = problem()
    optimal = solved(weight, torch.eye(20), bits=6, clip=12.85, damping=0.0, sort_columns=sort_columns)
    assert torch.equal(codes(optimal), codes(rounded(weight, bits=6, clip=12.85)))


def test_order_does_not_matter_for_a_diagonal_hessian():
    weight, _ = problem()
    hessian = torch.diag(torch.linspace(1, 9, 20))
    assert torch.equal(*(codes(solved(weight, hessian, bits=5, clip=5.0, sort_columns=sort)) for sort in (True, False)))


@pytest.mark.parametrize("spread, ratio", [(0.5, 1.13), (1.0, 1.6), (1.5, 2.6)])
def test_gptq_beats_rounding_by_as_much_as_the_spectrum_of_the_hessian_allows(spread, ratio):
    """Log-normal spectra of 256 columns: the ratio of the two output errors, from the reference measurement."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(256, 256, generator=generator)).Q
    spectrum = torch.exp(spread * torch.special.ndtri((torch.arange(256) + 0.5) / 256))  # its quantiles: no luck of the draw
    hessian = basis @ torch.diag(spectrum) @ basis.T
    weight = torch.randn(64, 256, generator=generator)
    plain = gptq.layer_error(weight, rounded(weight, bits=6, clip=12.85), hessian)
    assert plain / gptq.layer_error(weight, solved(weight, hessian, bits=6, clip=12.85), hessian) == pytest.approx(ratio, rel=0.06)


def test_dead_columns_and_rows_are_harmless_wherever_they_are():
    weight, hessian = problem()
    hessian[3], hessian[:, 3] = 0, 0
    weight[2] = 0
    result = solved(weight, hessian, bits=6, clip=12.85, damping=0.5)
    assert not codes(result)[:, 3].any() and not codes(result)[2].any() and torch.isfinite(result.weights()).all()
    alive = [j for j in range(20) if j != 3]
    without = solved(weight[:, alive], hessian[alive][:, alive], bits=6, damping=0.5,
                     steps=sdclip(weight, bits=6, clip=12.85))
    assert torch.equal(codes(result)[:, alive], codes(without)), "a dead column changes neither damping nor the others"


def test_dead_columns_take_no_part_in_the_damping():
    _, hessian = problem()
    wide = torch.zeros(60, 60)
    wide[:20, :20] = hessian
    small, large = (gptq.factorise(found, damping=0.1, sort_columns=False).upper_KK for found in (hessian, wide))
    assert torch.allclose(large[:20, :20], small, rtol=1e-5) and not large[:20, 20:].any()


def test_scale_of_the_hessian_does_not_matter():
    weight, hessian = problem()
    assert torch.equal(codes(solved(weight, hessian, bits=6, clip=12.85)), codes(solved(weight, 1e6 * hessian, bits=6, clip=12.85)))


def test_inputs_are_not_modified():
    weight, hessian = problem()
    before = weight.clone(), hessian.clone()
    solved(weight, hessian, bits=6, clip=9.0)
    assert torch.equal(before[0], weight) and torch.equal(before[1], hessian)


def test_damping_that_is_too_small_is_raised_tenfold_and_recorded():
    hessian = torch.outer(torch.ones(300), torch.ones(300))
    hessian[0, 0] -= 0.5  # not positive semidefinite: damping must make up for it
    factor = gptq.factorise(hessian, damping=0.01, sort_columns=True)
    assert factor.damping > 0.05 and math.log10(factor.damping / 0.01) == pytest.approx(round(math.log10(factor.damping / 0.01)))
    assert gptq.factorise(torch.eye(5), damping=0.01, sort_columns=True).damping == 0.01


@pytest.mark.parametrize("hessian, sentence", [
    (torch.outer(torch.ones(20), torch.ones(20)), r"not positive definite with quantize\.gptq\.damping 0"),
    (torch.zeros(20, 20), r"all zero.*raise calibrate\.sequences"), (torch.full((20, 20), float("nan")), "not finite")])
def test_hessian_that_cannot_be_used_is_one_sentence_with_a_way_out(hessian, sentence):
    with pytest.raises(ValueError, match=sentence):
        gptq.factorise(hessian, damping=0.0, sort_columns=False)


def test_factor_is_that_of_the_inverse():
    _, hessian = problem()
    factor = gptq.factorise(hessian, damping=0.0, sort_columns=False)
    upper = factor.upper_KK.double()
    assert torch.equal(upper, upper.triu()) and torch.allclose(upper.T @ upper @ hessian.double(), torch.eye(20).double(), atol=1e-3)


# steps


def test_step_is_sigmas_times_std_over_the_largest_code():
    weight, _ = problem()
    assert torch.equal(sdclip(weight, bits=6, clip=12.85).arrays["scales"], (12.85 * weight.std(dim=1) / 31).half())


def test_steps_of_the_largest_weight_and_of_a_quantile():
    weight, _ = problem(columns=101)
    assert torch.equal(scales.clips(weight, rule="max", clip=0.5), 0.5 * weight.abs().amax(dim=1))
    for share in (0.3, 0.999, 0.9999984, 1.0):
        assert torch.allclose(scales.clips(weight, rule="percentile", clip=share), torch.quantile(weight.abs(), share, dim=1), rtol=1e-6)


def test_hessian_sigmas_give_rows_with_large_inputs_a_larger_step():
    weight, hessian = problem()
    importance = (weight.abs() * hessian.diagonal()).mean(dim=1)
    expected = 3 * weight.std(dim=1) * (1 + 0.175 * (importance / importance.mean() - 1))
    found = scales.clips(weight, rule="hessian_sigmas", clip=3.0, hessian_KK=hessian, strength=0.175)
    assert torch.allclose(found, expected) and found.std() > 0
    assert torch.equal(scales.clips(weight, rule="hessian_sigmas", clip=3.0, hessian_KK=hessian, strength=0.0), 3 * weight.std(dim=1))
    with pytest.raises(ValueError, match="use sigmas"):
        scales.clips(weight, rule="hessian_sigmas", clip=3.0)


@pytest.mark.parametrize("bits, step", [(8, 1 / 127), (6, 1 / 31)])
def test_floor_of_the_clip_is_the_published_smallest_step(bits, step):
    weight, _ = problem()
    found = scales.steps(scales.clips(0.1 * weight, rule="max", clip=1.0), bits=bits, clip_floor=1.0, stored_as="float16")
    assert torch.equal(found.arrays["scales"], torch.full((6,), step).half())


@pytest.mark.parametrize("stored_as", scales.FORMATS)
def test_codes_are_rounded_with_the_steps_that_are_stored(stored_as):
    weight, hessian = problem(rows=40)
    weight *= torch.logspace(-3, 1, 40)[:, None]
    steps = sdclip(weight, bits=6, clip=4.0, stored_as=stored_as)
    for result in (nearest.quantize(weight, bits=6, candidates=[steps]), solved(weight, hessian, bits=6, steps=steps)):
        assert torch.allclose(result.weights(), codes(result) * steps.values[:, None], rtol=1e-6)
    exact = 4.0 * weight.std(dim=1) / 31
    assert ((steps.values / exact - 1).abs() < (1e-3 if stored_as == "float16" else 0.07)).all()
    assert set(steps.arrays) == ({"scales"} if stored_as == "float16" else {"scales", "step"})


@pytest.mark.parametrize("stored_as", scales.FORMATS)
def test_row_of_zeros_has_codes_0(stored_as):
    weight = torch.zeros(3, 8)
    weight[1, 2] = 1e-9
    result = nearest.quantize(weight, bits=6, candidates=[sdclip(weight, bits=6, clip=4.0, stored_as=stored_as)])
    assert torch.isfinite(result.weights()).all() and not codes(result)[0].any()


def test_step_that_float16_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="does not fit in float16"):
        sdclip(torch.randn(3, 8), bits=6, clip=1e9)


@pytest.mark.parametrize("rule, clip", [("percentile", 1.5), ("percentile", 0.0), ("max", -1.0)])
def test_clip_that_its_rule_does_not_take_is_refused(rule, clip):
    with pytest.raises(ValueError, match=f"clip is {clip}; {rule} takes"):
        scales.clips(torch.randn(3, 8), rule=rule, clip=clip)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="2 to 8 bits"):
        scales.limit(bits)


# the search


def test_search_takes_one_clip_for_the_matrix_by_its_squared_error():
    weight, hessian = problem(rows=12, columns=64, samples=300)
    weight[0, 0] = 30.0  # an outlier: its own row wants no clip, the sum over rows decides
    shares = (0.9, 0.97, 1.0)
    candidates = [scales.steps(scales.clips(weight, rule="percentile", clip=share), bits=4, clip_floor=0.0, stored_as="float16")
                  for share in shares]
    alone = [nearest.quantize(weight, bits=4, candidates=[steps]) for steps in candidates]
    errors = [((weight - found.weights()) ** 2).sum() for found in alone]
    best = nearest.quantize(weight, bits=4, candidates=candidates)
    assert torch.equal(codes(best), codes(alone[errors.index(min(errors))])) and len(set(map(float, errors))) == 3
    factor = gptq.factorise(hessian, damping=0.01, sort_columns=True)
    swept = [gptq.quantize(weight, factor, bits=4, candidates=[steps], block=16) for steps in candidates]
    errors = [((weight - found.weights()) ** 2).sum() for found in swept]
    best = gptq.quantize(weight, factor, bits=4, candidates=candidates, block=16)
    assert torch.equal(codes(best), codes(swept[errors.index(min(errors))]))


def test_search_takes_the_first_where_the_floor_makes_all_equal():
    def codes_of(steps):
        return torch.ones(2, 5)

    steps = [scales.Steps({"mark": torch.tensor(i)}, torch.full((2,), 1 / 31)) for i in (1, 2)]
    assert gptq_lite.best(torch.randn(2, 5), steps, codes_of)[1].arrays["mark"] == 1
    with pytest.raises(ValueError, match="empty list"):
        gptq_lite.best(torch.randn(2, 5), [], codes_of)


# laws of rate and error, on Gaussian rows


@pytest.fixture(scope="module")
def gaussian():
    return torch.randn(512, 2048, generator=torch.Generator().manual_seed(1))


def bits_per_weight(quantized):
    return entropy_bits(codes(quantized)) / codes(quantized).numel()


def test_codes_do_not_change_with_the_scale_of_the_weights(gaussian):
    small, large = (codes(rounded(gamma * gaussian, bits=6, clip=12.85)) for gamma in (1.0, 0.04))
    assert (small != large).float().mean() < 0.003  # float16 rounds the steps differently


def test_entropy_of_gaussian_rows_is_the_published_rate(gaussian):
    result = rounded(gaussian, bits=6, clip=12.85)
    assert bits_per_weight(result) == pytest.approx(3.328, abs=0.005) and 11 <= codes(result).abs().max() <= 14


def test_error_grows_with_the_square_of_the_clip(gaussian):
    weight = gaussian[:64]
    one, half_more = (gptq.layer_error(weight, rounded(weight, bits=6, clip=clip), torch.eye(2048)) for clip in (12.85, 19.275))
    assert half_more / one == pytest.approx(2.25, abs=0.1)


def test_one_percent_more_clip_saves_57_kb_on_the_matrices_of_the_field(gaussian):
    before, after = (bits_per_weight(rounded(gaussian, bits=6, clip=clip)) for clip in (12.85, 12.85 * 1.01))
    assert (before - after) * 31_719_424 / 8 / 1000 == pytest.approx(57, abs=3)


# low-rank correction


@pytest.mark.parametrize("form", low_rank.FORMS)
def test_low_rank_correction_takes_error_away(form):
    weight, _ = problem(rows=96, columns=128)
    quantized = rounded(weight, bits=4, clip=3.0)
    corrected = low_rank.correct(quantized, weight, rank=4, form=form, group=64)
    before, after = (low_rank.residual(weight, found).norm() for found in (quantized, corrected))
    exact = torch.linalg.svdvals(weight - quantized.weights())[4:].norm()  # what no factors of rank 4 can go below
    assert exact < after < before - 0.5 * (before - exact)
    assert torch.equal(codes(corrected), codes(quantized))


def test_low_rank_factors_have_the_published_codes_and_scales():
    weight, _ = problem(rows=48, columns=80)
    quantized = rounded(weight, bits=2, clip=1.0)
    arrays = low_rank.correct(quantized, weight, rank=4, form="asymmetric", group=64).arrays
    assert arrays["left"].shape == (48, 4) and arrays["left_scales"].shape == (1,)
    assert set(arrays["left"].unique().tolist()) <= {-2, -1, 0, 1}
    assert arrays["right"].shape == (4, 80) and arrays["right_scales"].shape == (5,)
    assert arrays["right"].min() >= -8 and arrays["right"].max() <= 7
    u, s, v = torch.linalg.svd(weight - quantized.weights(), full_matrices=False)
    assert torch.allclose(arrays["right_scales"].float(), v[:4].reshape(5, 64).abs().amax(1) / 7.5, rtol=1e-3)
    largest = (u[:, :4] * s[:4]).abs().max()
    assert arrays["left_scales"].item() == pytest.approx(largest.item() / 1.5, rel=1e-3)
    odd = low_rank.correct(quantized, weight, rank=3, form="asymmetric", group=64).arrays  # 240 values do not divide by 64
    assert odd["left_scales"].shape == (48,) and odd["right_scales"].shape == (3,) and odd["right"].abs().max() == 7


def test_largest_errors_are_not_per_weight():
    assert low_rank.largest({"a": 1.0, "b": 3.0, "c": 3.0, "d": 2.0}, 3) == ["b", "c", "d"]
    with pytest.raises(ValueError, match=r"low_rank\.rank is 9"):
        low_rank.correct(rounded(torch.randn(4, 8), bits=4, clip=3.0), torch.randn(4, 8), rank=9, form="symmetric", group=64)


# rotation


def test_rotation_leaves_the_function_as_it_is_and_the_hessian_belongs_to_it():
    weight, hessian = problem(rows=9, columns=96)
    inputs = torch.randn(7, 96, generator=torch.Generator().manual_seed(5))
    turn = {"block": 32, "seed": 3}
    rotated = rotation.weight(weight, **turn)
    assert torch.allclose(rotated @ rotation.weight(inputs, **turn).T, weight @ inputs.T, atol=1e-5)
    assert torch.allclose(torch.from_numpy(dequantize.rotate_back(rotated.numpy(), **turn)), weight, atol=1e-5)
    turned = rotation.weight(inputs, **turn)
    assert torch.allclose(rotation.hessian(inputs.T @ inputs, **turn), turned.T @ turned, atol=1e-3)
    error = torch.randn(9, 96, generator=torch.Generator().manual_seed(6))
    turned_error = rotation.weight(error, **turn)
    assert torch.trace(turned_error @ rotation.hessian(hessian, **turn) @ turned_error.T).item() == pytest.approx(
        torch.trace(error @ hessian @ error.T).item(), rel=1e-4)
    assert not torch.allclose(rotated, rotation.weight(weight, block=32, seed=4))


def test_rotated_outliers_cost_less_and_come_back_rotated():
    weight, _ = problem(rows=32, columns=64)
    weight[:, 5] *= 40
    turn = {"block": 64, "seed": 0}
    turned = rotation.marked(rounded(rotation.weight(weight, **turn), bits=4, clip=3.0), **turn)
    assert turned.scheme == {"rotation": turn}
    plain = low_rank.residual(weight, rounded(weight, bits=4, clip=3.0)).norm()
    assert low_rank.residual(weight, turned).norm() < 0.7 * plain


@pytest.mark.parametrize("columns, block", [(96, 64), (96, 3), (96, 1), (7, 2)])
def test_rotation_that_does_not_divide_is_refused_with_one_that_does(columns, block):
    with pytest.raises(ValueError, match=rf"its {columns} columns need a power of two that divides them, such as {columns & -columns}"):
        rotation.check(columns, block)


# ternary


def test_ternary_codes_have_a_scale_per_group_and_are_not_shrunk():
    weight, _ = problem(rows=16, columns=256)
    weight[:, 128:] *= 5
    result = ternary.quantize(weight, group=128)
    assert set(codes(result).unique().tolist()) == {-1, 0, 1} and result.arrays["scales"].shape == (16, 2)
    assert torch.allclose(result.arrays["scales"].float(), weight.abs().reshape(16, 2, 128).mean(2), rtol=1e-3)
    means = result.weights().abs().reshape(16, 2, 128).mean(2)
    assert torch.allclose(means, weight.abs().reshape(16, 2, 128).mean(2), rtol=1e-3), "what is decoded is as large as what was there"
    with pytest.raises(ValueError, match=r"ternary\.group is 100"):
        ternary.quantize(weight, group=100)


# selective zeroing


def matrices_to_prune():
    weight, _ = problem(rows=10, columns=40)
    fine, coarse = rounded(weight, bits=6, clip=12.85), rounded(10 * weight, bits=5, clip=12.85)
    return {"fine": fine, "coarse": coarse}


def test_cheapest_codes_of_one_are_zeroed_and_nothing_else():
    before = matrices_to_prune()
    ones = {name: codes(found).abs() == 1 for name, found in before.items()}
    count = int(ones["fine"].sum()) // 2
    after = prune.cheapest(before, count)
    assert torch.equal(codes(after["coarse"]), codes(before["coarse"])), "steps ten times larger are dearer"
    changed = codes(after["fine"]) != codes(before["fine"])
    assert changed.sum() == count and not (changed & ~ones["fine"]).any() and not codes(after["fine"])[changed].any()
    steps = before["fine"].arrays["scales"].float()[:, None].expand(10, 40)
    assert steps[changed].max() <= steps[ones["fine"] & ~changed].min()
    everything = prune.cheapest(before, 10**9)
    assert not any((codes(found).abs() == 1).any() for found in everything.values())
    assert prune.cheapest(before, 0) is before


def test_fewest_zeros_that_fit_are_found_by_bisection():
    before = matrices_to_prune()

    def size_of(matrices):
        return sum(int((codes(found) != 0).sum()) for found in matrices.values())

    full = size_of(before)
    assert prune.fewest(before, size_of, full) == 0 and prune.fewest(before, size_of, full - 17) == 17
    with pytest.raises(ValueError, match=r"raise the clips"):
        prune.fewest(before, size_of, 1)


def test_trellis_codes_are_not_pruned():
    with pytest.raises(ValueError, match=r"quantize\.prune\.codes to 0"):
        prune.cheapest({"a": Quantized({"codes": torch.ones(2, 2, dtype=torch.int8), "step": torch.tensor(1.0)}, {"trellis": 8})}, 1)


# figures and the way back


def test_hessians_are_gram_matrices_of_the_layers_inputs():
    net = GPT(CONFIG).eval()
    initialise(net, generator=torch.Generator().manual_seed(0))
    batches = [tokens(seed=1), tokens(seed=2)]
    found = hessians.collect(net, iter(batches), total=2)
    assert set(found) == {"embedding"} | {f"blocks.{i}.{m}" for i in range(2) for m in
                                          ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down")}
    final = torch.cat([net.hidden(batch).flatten(0, 1) for batch in batches])
    assert torch.allclose(found["embedding"], final.mT @ final, rtol=1e-4)
    assert torch.equal(found["blocks.1.attention.query"], found["blocks.1.attention.key"])
    assert not net.blocks[0].mlp.up._forward_pre_hooks


def test_entropy_of_codes_is_that_of_their_histogram():
    assert entropy_bits(torch.tensor([0, 0, 1, 1], dtype=torch.int8)) == 4.0
    assert entropy_bits(torch.zeros(10, dtype=torch.int8)) == 0.0
    assert entropy_bits(torch.tensor([0, 1, 2], dtype=torch.int8)) == pytest.approx(3 * math.log2(3))


def test_stored_bits_count_the_side_information():
    arrays = {"codes": torch.tensor([[0, 0, 1, 1]], dtype=torch.int8), "scales": torch.ones(1).half()}
    assert stored_bits(Quantized(arrays, {})) == 4 + 16
    small = {"codes": arrays["codes"], "scales": torch.tensor([56], dtype=torch.uint8), "step": torch.tensor(1.0)}
    assert stored_bits(Quantized(small, {})) == 4 + 8 + 32


def test_weights_come_back_as_scale_times_code():
    stored = {"m.weight.codes": np.array([[1, -2], [3, 0]], np.int8), "m.weight.scales": np.array([0.5, 2], np.float16),
              "gain": np.array([1.5], np.float16)}
    out = dequantize.weights(stored)
    assert out["m.weight"].tolist() == [[0.5, -1.0], [6.0, 0.0]] and out["gain"].tolist() == [1.5]


@pytest.mark.parametrize("stored", [
    {"m.codes": np.zeros((2, 2), np.int8)}, {"m.codes": np.zeros((2, 2), np.int8), "m.scales": np.zeros(3, np.float16)},
    {"m.scales": np.zeros(3, np.float16)}, {"m.codes": np.zeros((2, 2), np.float16), "m.scales": np.zeros(2, np.float16)},
    {"m.codes": np.zeros((), np.int8), "m.scales": np.zeros((), np.float16)},
    {"m": np.zeros(2, np.float16), "m.codes": np.zeros((2, 2), np.int8), "m.scales": np.zeros(2, np.float16)},
])
def test_codes_without_their_scales_are_refused(stored):
    with pytest.raises(container.ArtifactError, match=r"scale|int8 matrix"):
        dequantize.weights(stored)
