"""What is done to a matrix beside rounding it: low-rank corrections, rotations, ternary codes, zeroing."""

import pytest
import torch

from stages.lib.quant import low_rank, prune, rotation
from stages.lib.quant.methods import ternary
from stages.lib.quant.quantized import Quantized
from stages.runtime.weights import dequantize
from tests.test_quantize import codes, problem, rounded

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
        torch.trace(error @ hessian @ error.T).item(), rel=1e-4
    )
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


def test_trellis_codes_are_not_pruned():
    with pytest.raises(ValueError, match=r"quantize\.prune\.codes to 0"):
        prune.cheapest({"a": Quantized({"codes": torch.ones(2, 2, dtype=torch.int8), "step": torch.tensor(1.0)}, {"trellis": 8})}, 1)
