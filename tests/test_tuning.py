"""quantize.tuning: scales, steps and float16 tensors learn, codes stay, and the budget still holds."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.lib.node import files
from stages.lib.quant import entropy_model, tuning
from stages.runtime.tokens import shards
from stages.runtime.weights import dequantize
from stages.script import packing
from tests.conftest import set_leaf
from tests.quantizing import DEFAULT, NEAREST, decoded, settings_with
from tests.test_entropy_stage import ENTROPY, result_of, rich

__all__ = ["rich"]  # the fixture
ON = {"tuning.steps": 30, "tuning.batch_tokens": 256, "tuning.sequence_length": 32, "tuning.learning_rate": 0.01}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A split of 6,000 random tokens."""
    return split(tmp_path_factory.mktemp("train"), 6000)


def split(folder, tokens: int):
    shards.write(folder / "fineweb_train_000000.bin", np.random.default_rng(0).integers(2, 40, tokens, dtype=np.uint16))
    facts = {"tokens": tokens, "bytes": tokens, "vocabulary_size": 40, "text_sha256": "0" * 64, "tokenizer_sha256": "0" * 64}
    files.write_json(folder / "meta.json", facts)
    return folder


def both(rich, text, leaves=(), **groups):
    """(settings, the result before, the result after tuning)."""
    settings = settings_with(ON | dict(leaves), **groups)
    before, after = result_of(rich, settings), result_of(rich, settings)
    tuning.tune(after, rich[1], rich[0].config.to_dict(), text, settings.tuning, CPU)
    return settings, before, after


def divergence(net, result) -> float:
    """KL of other random text, by plain formulas."""
    x = torch.from_numpy(np.random.default_rng(9).integers(2, 40, (8, 32)))
    p, q = (model(x).double().log_softmax(-1) for model in (net, dequantize.build(decoded(result), net.config.to_dict())))
    return float((p.exp() * (p - q)).sum(-1).mean())


GROUPS = {
    "gptq": {"every": {"method": "gptq", "bits": 4, "scales": "sigmas", "clip": 3.0}, "table": NEAREST, "projection": NEAREST},
    "float8": {"every": {"method": "gptq", "bits": 4, "scales": "sigmas", "clip": 3.0}, "table": NEAREST, "projection": NEAREST},
    "ternary": {"mlp": {"method": "ternary"}, "table": NEAREST, "projection": NEAREST},
    "entropy": {"every": ENTROPY},
}
LEAVES = {
    "gptq": {"gptq.damping": 0.1},
    "float8": {"gptq.damping": 0.1, "scales_as": "float8"},
    "ternary": {"gptq.damping": 0.1, "ternary.group": 8},
    "entropy": {"entropy.bits_per_weight": 4.0},
}
STAY = {  # arrays that the tuning leaves as they are
    "gptq": ("codes",),
    "float8": ("codes", "scales"),
    "ternary": ("codes",),
    "entropy": ("codes", "step", "row_steps", "column_steps"),
}


@pytest.mark.parametrize("form", GROUPS)
def test_predictions_come_nearer_and_codes_stay(rich, text, form):
    _, before, after = both(rich, text, LEAVES[form], **GROUPS[form])
    for name, found in after.matrices.items():
        for suffix in found.arrays.keys() & set(STAY[form]):
            assert torch.equal(found.arrays[suffix], before.matrices[name].arrays[suffix])
        assert found.scheme == before.matrices[name].scheme
    assert divergence(rich[0], after) < 0.97 * divergence(rich[0], before)
    assert after.tuning["divergence_after"] < after.tuning["divergence_before"]
    changed = [name for name in after.float16 if not torch.equal(after.float16[name], before.float16[name])]
    assert changed and all(after.float16[name].dtype == torch.float16 for name in changed)


def test_rows_of_a_matrix_with_a_step_get_scales_within_the_budget(rich, text):
    settings, before, after = both(rich, text, LEAVES["entropy"], every=ENTROPY)
    assert all("scales" not in found.arrays for found in before.matrices.values())
    made = [found.arrays for found in after.matrices.values() if "scales" in found.arrays]
    assert made and all(arrays["scales"].shape == (len(arrays["codes"]),) for arrays in made)
    found = entropy_model.estimated(after.matrices)
    assert found.bits_per_weight <= settings.entropy.bits_per_weight
    assert after.budget.bits == pytest.approx(found.bits) and after.budget.summary()["bits_per_weight"] == found.bits_per_weight


def test_without_rows_only_the_step_of_a_matrix_changes(rich, text):
    _, before, after = both(rich, text, LEAVES["entropy"] | {"tuning.rows": False}, every=ENTROPY)
    for name, found in after.matrices.items():
        assert found.arrays.keys() == before.matrices[name].arrays.keys()
        assert found.arrays["step"] != before.matrices[name].arrays["step"]
    assert before.budget.reserved == 0.0
    assert divergence(rich[0], after) < divergence(rich[0], before)


def test_corrections_and_rotations_are_kept(rich, text):
    leaves = LEAVES["gptq"] | {"low_rank.matrices": 2, "low_rank.rank": 2, "rotation.groups": ["attention"], "rotation.block": 8}
    _, before, after = both(rich, text, leaves, **GROUPS["gptq"])
    corrected = [name for name, found in before.matrices.items() if "left" in found.arrays]
    assert len(corrected) == 2
    for name in corrected:
        assert all(torch.equal(after.matrices[name].arrays[part], before.matrices[name].arrays[part]) for part in ("left", "right"))
    assert divergence(rich[0], after) < divergence(rich[0], before)


def test_what_is_learned_is_what_is_decoded(rich, text):
    settings, before, _ = both(rich, text, LEAVES["gptq"], **GROUPS["gptq"])
    name = next(iter(before.matrices))
    found = tuning.matrix(before.matrices[name], settings.tuning, CPU)
    with torch.no_grad():
        found.factors.copy_(1 + torch.arange(len(found.factors)).reshape(found.factors.shape) / 64)
        learned = found.weights()
        matrices = {key: tuning.matrix(quantized, settings.tuning, CPU) for key, quantized in before.matrices.items()} | {name: found}
        floats = {key: half.float() for key, half in before.float16.items()}
    tuning.store(before, matrices, floats)
    assert torch.allclose(before.matrices[name].weights(), learned, rtol=2e-3)


def test_row_scales_take_the_finest_grid_that_fits():
    near, far = torch.full((64, 1), 1.0), torch.exp2(torch.linspace(-1, 1, 64)).reshape(-1, 1)
    near[::2] = 2 ** (1 / 64)
    assert torch.equal(tuning.rounded({"a": near})["a"], near.reshape(-1).half())
    coarse = tuning.rounded({"a": far})["a"].float().log2() * 8
    assert torch.allclose(coarse, coarse.round(), atol=0.01) and tuning.side_bits({"a": coarse.half()}) <= 3.5 * 64
    assert tuning.rounded({"a": torch.ones(64, 1), "b": near}).keys() == {"b"} and tuning.rounded({}) == {}
    assert tuning.rounded({"a": torch.exp2(torch.arange(9.0)).reshape(-1, 1)}) == {}


def test_same_settings_give_the_same_bits(rich, text):
    settings, _, one = both(rich, text, LEAVES["entropy"], every=ENTROPY)
    other = result_of(rich, settings)
    tuning.tune(other, rich[1], rich[0].config.to_dict(), text, settings.tuning, CPU)
    assert all(torch.equal(tensor, one.stored()[name]) for name, tensor in other.stored().items())


def test_sentences(rich, text, tmp_path):
    settings = settings_with(ON | LEAVES["gptq"], **GROUPS["gptq"])
    result, config = result_of(rich, settings), rich[0].config.to_dict()
    with pytest.raises(ValueError, match=r"quantize\.tuning"):
        tuning.tune(result, rich[1], config, split(tmp_path, 20), settings.tuning, CPU)
    with pytest.raises(ValueError, match=r"lower quantize\.tuning\.learning_rate"):
        tuning.tune(result, rich[1], config, text, replace(settings.tuning, learning_rate=1e6), CPU)


@pytest.mark.parametrize("path", packing.SWITCHED)
def test_one_script_has_the_code_only_if_it_is_on(path):
    tree = copy.deepcopy(DEFAULT)
    assert path not in packing.modules(tree)
    set_leaf(tree, f"quantize.{'.'.join(packing.SWITCHED[path])}", 1)  # not 0, and not empty
    assert path in packing.modules(tree)
