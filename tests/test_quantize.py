"""GPTQ against a brute-force reference, the scale rule, the statistics, and what a blob gives back."""

import math

import numpy as np
import pytest
import torch

from stages.lib.quant import gptq, hessians
from stages.quantize.__main__ import entropy_bits
from stages.runtime import container, dequantize
from stages.runtime.model.gpt import GPT, initialise
from tests.test_model import CONFIG, tokens


def problem(rows=6, columns=20, samples=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(samples, columns, generator=generator) @ mixing
    return torch.randn(rows, columns, generator=generator), inputs.mT @ inputs


def reference_gptq(weight, hessian, scales, limit, damping):
    """Optimal brain surgeon, one column at a time, inverting what is left of H anew at each step."""
    weight, codes = weight.double().clone(), torch.zeros_like(weight)
    hessian = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(len(hessian))
    for j in range(weight.size(1)):
        inverse = torch.linalg.inv(hessian[j:, j:])
        codes[:, j] = torch.round(weight[:, j] / scales.double()).clamp(-limit, limit)
        error = (weight[:, j] - scales.double() * codes[:, j]) / inverse[0, 0]
        weight[:, j:] -= torch.outer(error, inverse[0])
    return codes


def test_gptq_equals_optimal_brain_surgeon_column_by_column():
    weight, hessian = problem()
    scales = gptq.row_scales(weight, bits=4, sigmas=3.0)
    fast = gptq.gptq(weight, hessian, scales, bits=4, damping=0.01, block=7, sort_columns=False)
    assert torch.equal(fast.codes.double(), reference_gptq(weight, hessian, scales, 7, 0.01).double())


@pytest.mark.parametrize("block", [1, 3, 20, 128])
def test_block_size_does_not_change_the_codes(block):
    weight, hessian = problem()
    scales = gptq.row_scales(weight, bits=5, sigmas=4.0)
    options = {"bits": 5, "damping": 0.01, "sort_columns": True}
    assert torch.equal(gptq.gptq(weight, hessian, scales, block=block, **options).codes,
                       gptq.gptq(weight, hessian, scales, block=8, **options).codes)


@pytest.mark.parametrize("sort_columns", [True, False])
def test_gptq_has_less_layer_error_than_rounding(sort_columns):
    weight, hessian = problem(rows=32, columns=64, samples=500)
    scales = gptq.row_scales(weight, bits=4, sigmas=3.0)
    optimal = gptq.gptq(weight, hessian, scales, bits=4, damping=0.01, block=16, sort_columns=sort_columns)
    assert gptq.layer_error(weight, optimal, hessian) < 0.6 * gptq.layer_error(weight, gptq.nearest(weight, scales, bits=4), hessian)


def test_identity_hessian_gives_rounding_to_nearest():
    weight, _ = problem()
    scales = gptq.row_scales(weight, bits=6, sigmas=12.85)
    assert torch.equal(gptq.gptq(weight, torch.eye(20), scales, bits=6, damping=0.0, block=8, sort_columns=True).codes,
                       gptq.nearest(weight, scales, bits=6).codes)


def test_scale_is_sigmas_times_std_over_the_largest_code():
    weight, _ = problem()
    expected = (12.85 * weight.std(dim=1) / 31).half()
    assert torch.equal(gptq.row_scales(weight, bits=6, sigmas=12.85), expected)


def test_dead_columns_and_rows_are_harmless():
    weight, hessian = problem()
    hessian[3], hessian[:, 3] = 0, 0
    weight[2] = 0
    result = gptq.gptq(weight, hessian, gptq.row_scales(weight, bits=6, sigmas=12.85), bits=6, damping=0.01, block=8, sort_columns=True)
    assert not result.codes[:, 3].any() and not result.codes[2].any() and torch.isfinite(result.weights()).all()


def test_inputs_are_not_modified():
    weight, hessian = problem()
    before = weight.clone(), hessian.clone()
    gptq.gptq(weight, hessian, gptq.row_scales(weight, bits=6, sigmas=9.0), bits=6, damping=0.01, block=8, sort_columns=True)
    assert torch.equal(before[0], weight) and torch.equal(before[1], hessian)


def test_singular_hessian_says_what_to_raise():
    weight, _ = problem()
    vector = torch.ones(20)
    with pytest.raises(ValueError, match=r"quantize\.damping"):
        gptq.gptq(weight, torch.outer(vector, vector), gptq.row_scales(weight, bits=6, sigmas=9.0), bits=6, damping=0.0, block=8,
                  sort_columns=False)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="2 to 8 bits"):
        gptq.limit(bits)


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
