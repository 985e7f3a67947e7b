"""Entropy-constrained quantization: the recursion's identities, the trellis search, steps, gains, and what goes into the file."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.lib.quant import entropy_constrained, rate, trellis_search
from stages.lib.quant.entropy_constrained import Options
from stages.runtime.weights import dequantize
from stages.runtime.weights import trellis as decoder

PLAIN = Options(trellis=0, column_steps=False, gain=False, damping=0.005, rate_distortion=0.0)
FULL = Options(trellis=8, column_steps=True, gain=True, damping=0.005, rate_distortion=0.0)


def problem(rows=40, columns=60, seed=0, spread=1.5):
    """Weights, and the Hessian of inputs that are correlated and unequal, by `spread` powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    mixing *= torch.logspace(0, -spread, columns, dtype=torch.float64)
    inputs = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(rows, columns, generator=generator) / 10, inputs.mT @ inputs


def damped(hessian, share=0.005):
    return hessian + share * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)


def rounded(weight, hessian, options, *, step=0.05, row_steps=None, dtype=torch.float64):
    factor = entropy_constrained.factorise(hessian, options)
    return entropy_constrained.round_alike([weight], [factor], steps=[step], row_steps=[row_steps], options=options, dtype=dtype)


@pytest.mark.parametrize("options", [PLAIN, FULL, replace(FULL, trellis=0), replace(FULL, trellis=32), replace(FULL, rate_distortion=0.1)])
def test_errors_of_the_columns_add_up_to_the_error_of_the_layer(options):
    weight, hessian = problem()
    result = rounded(weight, hessian, options)
    difference = weight.double() - result.weights[0]
    whole = torch.sum((difference @ damped(hessian)) * difference).item()
    assert result.losses.sum().item() == pytest.approx(whole, rel=1e-10) and whole > 0


def test_geometric_mean_of_the_pivots_does_not_depend_on_the_order():
    _, hessian = problem()
    reference = torch.linalg.slogdet(damped(hessian)).logabsdet.item()
    for seed in range(3):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        upper = entropy_constrained.factorise(hessian[order][:, order], PLAIN).upper_KK
        assert -2 * upper.diagonal().log().sum().item() == pytest.approx(reference, rel=1e-10)


def test_factor_is_the_upper_cholesky_factor_of_the_inverse():
    _, hessian = problem()
    factor = entropy_constrained.factorise(hessian, FULL)
    inverse = torch.linalg.inv(damped(hessian)[factor.order][:, factor.order])
    assert torch.allclose(factor.upper_KK, torch.linalg.cholesky(inverse, upper=True), rtol=1e-8, atol=0)
    assert not factor.upper_KK.tril(-1).any() and torch.equal(factor.order, hessian.diagonal().argsort(descending=True))


def test_with_everything_off_it_is_gptq_with_one_step_for_the_matrix():
    weight, hessian = problem()
    found = entropy_constrained.quantize(weight, hessian, step=0.0625, row_steps_M=None, options=PLAIN)
    factor = torch.linalg.cholesky(
        torch.linalg.inv(damped(hessian)[(order := hessian.diagonal().argsort(descending=True))][:, order]), upper=True
    )
    work, expected = weight.double()[:, order], torch.zeros(40, 60)
    for j in range(60):
        expected[:, j] = torch.round(work[:, j] / 0.0625)
        work[:, j:] -= torch.outer((work[:, j] - 0.0625 * expected[:, j]) / factor[j, j], factor[j, j:])
    assert torch.equal(found.arrays["codes"][:, order].float(), expected) and found.scheme == {}
    assert set(found.arrays) == {"codes", "step"} and torch.equal(found.weights(), 0.0625 * found.arrays["codes"].float())


def brute_force(targets, states):
    """Least squared distance over every path of a short sequence."""
    table = decoder.transitions(states)
    best = {0: (0.0, [])}
    for target in targets:
        ways = {}
        for state, (cost, path) in best.items():
            for z1 in range(2):
                residue = (state & 1) + 2 * z1
                p = residue + 4 * round((target - residue) / 4)
                entry = cost + (target - p) ** 2, [*path, p]
                following = int(table[state, z1])
                ways[following] = min(ways.get(following, (math.inf, [])), entry)
        best = ways
    return min(best.values())


@pytest.mark.parametrize("states", [4, 8, 16, 32])
def test_search_finds_the_nearest_path(states):
    targets = torch.randn(5, 60, generator=torch.Generator().manual_seed(states), dtype=torch.float64) * 4
    found = trellis_search.search(targets, states=states)
    for target, path in zip(targets.tolist(), found.tolist(), strict=True):
        assert path == brute_force(target, states)[1]


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 200, 640])
def test_search_in_blocks_gives_paths_of_the_machine_that_are_as_good_as_the_best(rows):
    targets = torch.randn(3, rows, generator=torch.Generator().manual_seed(rows), dtype=torch.float64) * 5
    found = trellis_search.search(targets, states=8)
    codes = found.div(2, rounding_mode="floor").mT.numpy().astype(np.int32)
    assert np.array_equal(decoder.half_steps(codes, 8), found.mT.numpy())
    best = sum(brute_force(target, 8)[0] for target in targets.tolist())
    assert (targets - found).square().sum().item() <= 1.02 * best + 1e-9


# As many samples as the published table has, 262,144.
@pytest.mark.parametrize("states, gap", [(0, 0.266), (4, 0.098), (8, 0.084), (16, 0.076), (32, 0.064)])
def test_gaussian_source_is_as_far_from_shannon_as_published(states, gap):
    source = torch.randn(64, 4096, generator=torch.Generator().manual_seed(1))
    step = 0.4
    levels = trellis_search.search(2 * source / step, states=states) if states else torch.round(source / step)
    codes = (levels.div(2, rounding_mode="floor") if states else levels).to(torch.int8).mT.contiguous().numpy()
    bits = rate.estimate({"w": {"codes": codes}}, {"w": {"trellis": states}}).bits_per_weight
    distortion = (source - levels * step / (2 if states else 1)).square().mean().item()
    assert bits - 0.5 * math.log2(1 / distortion) == pytest.approx(gap, abs=0.005)
    if states:
        assert distortion / step**2 == pytest.approx(dequantize.NOISE[states], rel=0.01)


@pytest.mark.parametrize("options", [PLAIN, FULL, replace(FULL, trellis=4), replace(FULL, column_steps=False)])
@pytest.mark.parametrize("rule", ["none", "std"])
def test_decoder_gives_the_encoders_weights(options, rule):
    weight, hessian = problem()
    steps = entropy_constrained.row_steps(weight, rule=rule, importance_M=None)
    found = entropy_constrained.quantize(weight, hessian, step=0.05, row_steps_M=steps, options=options)
    encoders = rounded(weight, hessian, options, row_steps=steps, dtype=torch.float32).weights[0]
    assert torch.allclose(found.weights(), encoders, rtol=2e-6, atol=1e-7)
    stored = {name: array.numpy() for name, array in found.stored("m.weight").items()}
    assert torch.equal(dequantize.weights(stored, {"m.weight": found.scheme})["m.weight"], found.weights())


def test_matrices_of_one_shape_are_quantized_as_if_alone():
    problems = [problem(seed=seed) for seed in range(3)]
    factors = [entropy_constrained.factorise(hessian, FULL) for _, hessian in problems]
    together = entropy_constrained.quantize_alike(
        [weight for weight, _ in problems], factors, steps=[0.04, 0.05, 0.06], row_steps=[None] * 3, options=FULL
    )
    for (weight, hessian), step, found in zip(problems, [0.04, 0.05, 0.06], together, strict=True):
        alone = entropy_constrained.quantize(weight, hessian, step=step, row_steps_M=None, options=FULL)
        assert all(torch.equal(alone.arrays[suffix], array) for suffix, array in found.arrays.items())


def test_size_of_the_blocks_changes_nothing_but_the_speed(monkeypatch):
    weight, hessian = problem()
    whole = entropy_constrained.quantize(weight, hessian, step=0.05, row_steps_M=None, options=FULL)
    monkeypatch.setattr(entropy_constrained, "BLOCK", 7)
    parts = entropy_constrained.quantize(weight, hessian, step=0.05, row_steps_M=None, options=FULL)
    assert torch.equal(whole.arrays["codes"], parts.arrays["codes"])


@pytest.mark.parametrize("options", [PLAIN, FULL])
def test_step_of_twice_the_size_takes_one_bit_off_each_weight(options):
    weight, hessian = problem(rows=256, columns=128, spread=0.3)

    def bits(step):
        found = entropy_constrained.quantize(weight, hessian, step=step, row_steps_M=None, options=options)
        arrays = {suffix: array.numpy() for suffix, array in found.arrays.items()}
        return rate.estimate({"w": arrays}, {"w": found.scheme}).bits_per_weight

    assert bits(0.0125) - bits(0.025) == pytest.approx(1.0, abs=0.03)


def test_column_steps_make_every_columns_share_of_the_error_alike():
    weight, hessian = problem(rows=512)
    one_step, own_steps = (rounded(weight, hessian, options).losses[0] for options in (PLAIN, replace(PLAIN, column_steps=True)))
    assert own_steps.max() / own_steps.min() < 1.6 and one_step.max() / one_step.min() > 10


def test_outliers_are_coded_and_not_clamped():
    weight, hessian = problem()
    weight[3, 5] = 40.0
    found = entropy_constrained.quantize(weight, hessian, step=0.05, row_steps_M=None, options=FULL)
    assert found.arrays["codes"].dtype == torch.int16 and abs(found.weights()[3, 5].item() - 40.0) < 0.5
    weight[3, 5] = 4000.0
    assert entropy_constrained.quantize(weight, hessian, step=0.05, row_steps_M=None, options=FULL).arrays["codes"].dtype == torch.int32


def test_dead_inputs_get_codes_of_zero():
    weight, hessian = problem()
    hessian[7], hessian[:, 7] = 0, 0
    found = entropy_constrained.quantize(weight, hessian, step=0.05, row_steps_M=None, options=FULL)
    assert not found.weights()[:, 7].any() and not found.arrays["codes"][:, 7].any() and torch.isfinite(found.weights()).all()


def test_gain_of_a_column_is_least_squares_for_what_was_rounded():
    source = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0)) * 0.9
    for states in (0, 8):
        options = replace(PLAIN, gain=True, trellis=states)
        found = entropy_constrained.quantize(source, torch.eye(1), step=1.0, row_steps_M=None, options=options)
        best = (source * found.weights()).sum() / found.weights().square().sum()
        assert best.item() == pytest.approx(1.0, abs=0.02)
        plain = entropy_constrained.quantize(source, torch.eye(1), step=1.0, row_steps_M=None, options=replace(options, gain=False))
        assert (source - found.weights()).square().mean() < (source - plain.weights()).square().mean()


def test_row_steps_follow_spread_importance_and_frequency():
    weight = torch.tensor([[1.0, -1.0], [2.0, -2.0], [4.0, -4.0]])
    assert entropy_constrained.row_steps(weight, rule="none", importance_M=None) is None
    steps = entropy_constrained.row_steps(weight, rule="std", importance_M=None)
    assert steps.dtype == torch.int8 and 14 <= int(steps[2] - steps[0]) <= 16
    steps = entropy_constrained.row_steps(weight, rule="gradient", importance_M=torch.tensor([16.0, 4.0, 1.0]))
    assert steps[0] < steps[1] < steps[2] and 12 <= int(steps[2] - steps[0]) <= 16
    steps = entropy_constrained.token_row_steps(torch.tensor([160.0, 10.0, 0.0]), exponent=0.25)
    assert steps[0] < steps[1] < steps[2] and 7 <= int(steps[1] - steps[0]) <= 8
    assert not entropy_constrained.token_row_steps(torch.zeros(3), exponent=0.25).any()


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda weight, hessian: weight.__setitem__((0, 0), torch.nan), "weights are not finite"),
        (lambda weight, hessian: hessian.__setitem__((0, 0), torch.inf), "Hessian is not finite"),
        (lambda weight, hessian: hessian.zero_(), "all zero"),
        (lambda weight, hessian: hessian.sub_(2 * hessian.diagonal().max() * torch.eye(60)), "not positive definite"),
    ],
)
def test_input_that_cannot_be_quantized_is_refused_with_a_way_out(change, sentence):
    weight, hessian = problem()
    change(weight, hessian)
    with pytest.raises(ValueError, match=sentence):
        entropy_constrained.quantize(weight, hessian, step=0.05, row_steps_M=None, options=FULL)


def test_rows_without_gradients_and_unknown_rules_are_refused():
    weight, _ = problem()
    with pytest.raises(ValueError, match=r"calibrate\.row_gradients"):
        entropy_constrained.row_steps(weight, rule="gradient", importance_M=None)
    with pytest.raises(ValueError, match=r"none \| std \| gradient"):
        entropy_constrained.row_steps(weight, rule="norm", importance_M=None)
    with pytest.raises(ValueError, match="not negative"):
        entropy_constrained.token_row_steps(torch.tensor([-1.0, 2.0]), exponent=0.5)
    with pytest.raises(ValueError, match="positive and finite"):
        entropy_constrained.quantize(weight, torch.eye(60), step=0.0, row_steps_M=None, options=FULL)


def test_everything_on_beats_published_gptq_at_the_same_bits():
    weight, hessian = problem(rows=256, columns=128)
    published = gptq_like(weight, hessian)
    found = entropy_constrained.quantize(weight, hessian, step=0.41 * weight.std().item(), row_steps_M=None, options=FULL)
    bits = [
        rate.estimate({"w": {suffix: array.numpy() for suffix, array in arrays.items()}}, {"w": scheme}).codes["w"] / weight.numel()
        for arrays, scheme in ((published[1], {}), (found.arrays, found.scheme))
    ]
    lost = [(weight - restored).double() for restored in (published[0], found.weights())]
    errors = [torch.sum((difference @ hessian) * difference).item() for difference in lost]
    gain = bits[0] - bits[1] + 0.5 * math.log2(errors[0] / errors[1])
    assert gain > 0.17


def gptq_like(weight, hessian):
    """Row steps of 12.85 standard deviations in 31, one step along the row, rounding: what the records ship."""
    steps = entropy_constrained.row_steps(weight, rule="std", importance_M=None)
    found = entropy_constrained.quantize(
        weight, hessian, step=12.85 / 31 * weight.std().item(), row_steps_M=steps, options=replace(PLAIN, damping=0.01)
    )
    return found.weights(), found.arrays
