"""Quantizers against references of their own: brute-force GPTQ, the rules of steps, rotation, corrections, the laws of rate and error."""

import math

import numpy as np
import pytest
import torch

from stages.calibrate import hessians
from stages.lib.blob import entropy
from stages.lib.quant import gptq_lite, scales
from stages.lib.quant.methods import gptq, nearest
from stages.lib.quant.quantized import Quantized, layer_error
from stages.quantize.reporting import stored_bits
from stages.runtime.blob import container
from stages.runtime.network.gpt import GPT, initialise
from stages.runtime.weights import dequantize
from tests.test_model import CONFIG, tokens


def problem(rows=6, columns=20, samples=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(samples, columns, generator=generator) @ mixing
    return torch.randn(rows, columns, generator=generator), inputs.mT @ inputs


def sdclip(weight, *, bits, clip, stored_as="float16", floor=0.0):
    return scales.steps(scales.clips(weight, rule="sigmas", clip=clip), bits=bits, clip_floor=floor, stored_as=stored_as)


def factorised(hessian, *, damping, dampings=1, sort_columns):
    return gptq.factorise(hessian, damping=damping, dampings=dampings, sort_columns=sort_columns)


def solved(weight, hessian, *, bits, clip=None, steps=None, damping=0.01, dampings=1, block=8, sort_columns=True):
    factor = factorised(hessian, damping=damping, dampings=dampings, sort_columns=sort_columns)
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
    plain = layer_error(weight, rounded(weight, bits=6, clip=12.85), hessian)
    assert plain / layer_error(weight, solved(weight, hessian, bits=6, clip=12.85), hessian) == pytest.approx(ratio, rel=0.06)


def published_gptq(weight, hessian, steps, *, block, dampings):
    """The steps of #1019 (damped twice) and #1394 (once), in float32 as there: posttraining of the records, solver 1 to 7."""
    weight, hessian, columns = weight.clone(), hessian.clone(), weight.size(1)
    diagonal = hessian.diagonal()
    if dampings == 2:  # where H is collected
        diagonal += 0.01 * diagonal.mean()
    dead = diagonal == 0
    diagonal[dead] = 1
    diagonal += 0.01 * diagonal.mean()
    order = torch.argsort(diagonal, descending=True)
    weight[:, dead] = 0
    weight, hessian = weight[:, order], hessian[order][:, order]
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    found = torch.zeros_like(weight)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros(len(weight), stop - start)
        for j in range(start, stop):
            found[:, j] = (weight[:, j] / steps).round().clamp(-31, 31)
            errors[:, j - start] = (weight[:, j] - steps * found[:, j]) / upper[j, j]
            weight[:, j:stop] -= torch.outer(errors[:, j - start], upper[j, j:stop])
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return found[:, torch.argsort(order)]


@pytest.mark.parametrize("dampings", [1, 2])
@pytest.mark.parametrize("dead", [0, 1, 40])
def test_gptq_is_bit_for_bit_the_published_one(dead, dampings):
    weight, hessian = problem(rows=48, columns=160, samples=640)
    hessian[:dead], hessian[:, :dead] = 0, 0
    steps = sdclip(weight, bits=6, clip=12.85)
    found = codes(solved(weight, hessian, bits=6, steps=steps, dampings=dampings, block=128))
    assert torch.equal(found.float(), published_gptq(weight, hessian, steps.values, block=128, dampings=dampings))
    assert bool(found[:, :dead].any()) == (dead > 0 and dampings == 2), "a column that is damped before it is looked at is not dead"


def test_dead_columns_and_rows_are_harmless_wherever_they_are():
    weight, hessian = problem()
    hessian[3], hessian[:, 3] = 0, 0
    weight[2] = 0
    result = solved(weight, hessian, bits=6, clip=12.85, damping=0.5)
    assert not codes(result)[:, 3].any() and not codes(result)[2].any() and torch.isfinite(result.weights()).all()


def test_dead_columns_count_as_ones_in_the_mean_of_the_damping():
    _, hessian = problem()
    wide = torch.zeros(60, 60)
    wide[:20, :20] = hessian
    share = (hessian.diagonal().sum() + 40) / 60 / hessian.diagonal().mean()
    small, large = factorised(hessian, damping=0.1 * share.item(), sort_columns=False), factorised(wide, damping=0.1, sort_columns=False)
    assert torch.allclose(large.upper_KK[:20, :20], small.upper_KK, rtol=1e-4) and not large.upper_KK[:20, 20:].any()


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
    factor = factorised(hessian, damping=0.01, sort_columns=True)
    assert factor.damping > 0.05 and math.log10(factor.damping / 0.01) == pytest.approx(round(math.log10(factor.damping / 0.01)))
    assert factorised(torch.eye(5), damping=0.01, sort_columns=True).damping == 0.01


@pytest.mark.parametrize(
    "hessian, sentence",
    [
        (torch.outer(torch.ones(20), torch.ones(20)), r"not positive definite with quantize\.gptq\.damping 0"),
        (torch.zeros(20, 20), r"all zero.*raise calibrate\.sequences"),
        (torch.full((20, 20), float("nan")), "not finite"),
    ],
)
def test_hessian_that_cannot_be_used_is_one_sentence_with_a_way_out(hessian, sentence):
    with pytest.raises(ValueError, match=sentence):
        factorised(hessian, damping=0.0, sort_columns=False)


def test_factor_is_that_of_the_inverse():
    _, hessian = problem()
    factor = factorised(hessian, damping=0.0, sort_columns=False)
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
def test_floor_of_the_clip_is_the_published_min_step(bits, step):
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
    candidates = [
        scales.steps(scales.clips(weight, rule="percentile", clip=share), bits=4, clip_floor=0.0, stored_as="float16") for share in shares
    ]
    alone = [nearest.quantize(weight, bits=4, candidates=[steps]) for steps in candidates]
    errors = [((weight - found.weights()) ** 2).sum() for found in alone]
    best = nearest.quantize(weight, bits=4, candidates=candidates)
    assert torch.equal(codes(best), codes(alone[errors.index(min(errors))])) and len(set(map(float, errors))) == 3
    factor = factorised(hessian, damping=0.01, sort_columns=True)
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
    return entropy.bits(codes(quantized).numpy()) / codes(quantized).numel()


def test_codes_do_not_change_with_the_scale_of_the_weights(gaussian):
    small, large = (codes(rounded(gamma * gaussian, bits=6, clip=12.85)) for gamma in (1.0, 0.04))
    assert (small != large).float().mean() < 0.003  # float16 rounds the steps differently


def test_entropy_of_gaussian_rows_is_the_published_rate(gaussian):
    result = rounded(gaussian, bits=6, clip=12.85)
    assert bits_per_weight(result) == pytest.approx(3.328, abs=0.005) and 11 <= codes(result).abs().max() <= 14


def test_error_grows_with_the_square_of_the_clip(gaussian):
    weight = gaussian[:64]
    one, half_more = (layer_error(weight, rounded(weight, bits=6, clip=clip), torch.eye(2048)) for clip in (12.85, 19.275))
    assert half_more / one == pytest.approx(2.25, abs=0.1)


def test_one_percent_more_clip_saves_57_kb_on_the_matrices_of_the_field(gaussian):
    before, after = (bits_per_weight(rounded(gaussian, bits=6, clip=clip)) for clip in (12.85, 12.85 * 1.01))
    assert (before - after) * 31_719_424 / 8 / 1000 == pytest.approx(57, abs=3)


# figures and the way back


def test_hessians_are_gram_matrices_of_the_layers_inputs():
    net = GPT(CONFIG).eval()
    initialise(net, generator=torch.Generator().manual_seed(0))
    batches = [tokens(seed=1), tokens(seed=2)]
    found = hessians.collect(net, iter(batches), total=2)
    assert set(found) == {"embedding"} | {
        f"blocks.{i}.{m}"
        for i in range(2)
        for m in ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down")
    }
    final = torch.cat([net.hidden(batch).flatten(0, 1) for batch in batches])
    assert torch.allclose(found["embedding"], final.mT @ final, rtol=1e-4)
    assert torch.equal(found["blocks.1.attention.query"], found["blocks.1.attention.key"])
    assert not net.blocks[0].mlp.up._forward_pre_hooks


def test_entropy_of_codes_is_that_of_their_histogram():
    assert entropy.bits(np.array([0, 0, 1, 1], np.int8)) == 4.0
    assert entropy.bits(np.zeros(10, np.int8)) == 0.0
    assert entropy.bits(np.array([0, 1, 2], np.int8)) == pytest.approx(3 * math.log2(3))


def test_stored_bits_count_the_side_information():
    arrays = {"codes": torch.tensor([[0, 0, 1, 1]], dtype=torch.int8), "scales": torch.ones(1).half()}
    assert stored_bits(Quantized(arrays, {})) == 4 + 16
    small = {"codes": arrays["codes"], "scales": torch.tensor([56], dtype=torch.uint8), "step": torch.tensor(1.0)}
    assert stored_bits(Quantized(small, {})) == 4 + 8 + 32


def test_weights_come_back_as_scale_times_code():
    stored = {
        "m.weight.codes": np.array([[1, -2], [3, 0]], np.int8),
        "m.weight.scales": np.array([0.5, 2], np.float16),
        "gain": np.array([1.5], np.float16),
    }
    out = dequantize.weights(stored)
    assert out["m.weight"].tolist() == [[0.5, -1.0], [6.0, 0.0]] and out["gain"].tolist() == [1.5]


@pytest.mark.parametrize(
    "stored",
    [
        {"m.codes": np.zeros((2, 2), np.int8)},
        {"m.codes": np.zeros((2, 2), np.int8), "m.scales": np.zeros(3, np.float16)},
        {"m.scales": np.zeros(3, np.float16)},
        {"m.codes": np.zeros((2, 2), np.float16), "m.scales": np.zeros(2, np.float16)},
        {"m.codes": np.zeros((), np.int8), "m.scales": np.zeros((), np.float16)},
        {"m": np.zeros(2, np.float16), "m.codes": np.zeros((2, 2), np.int8), "m.scales": np.zeros(2, np.float16)},
    ],
)
def test_codes_without_their_scales_are_refused(stored):
    with pytest.raises(container.ArtifactError, match=r"scale|int8 matrix"):
        dequantize.weights(stored)
