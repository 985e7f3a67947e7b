"""The stage `quantize`: groups, methods, overrides, corrections over all matrices, its table, and one sentence for what cannot work."""

import csv
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from stages.calibrate import hessians
from stages.lib.blob import entropy
from stages.lib.node import tensors
from stages.lib.quant import groups
from stages.lib.quant.methods import gptq
from stages.lib.quant.network import quantize
from stages.quantize import reporting as table
from stages.runtime.weights import dequantize
from tests.conftest import run_node
from tests.quantizing import NEAREST, decoded, settings_with
from tests.test_features import ALONE, PLAIN, config
from tests.test_stacks import documents, random_model

FEATURES = {
    "bigram_hash": {"buckets": 64, "width": 8, "scale": 0.05, "trigram": False},
    "sparse_gate": {"window": 4, "factor": 0.5},
    "value_embedding": {"layers": [1], "width": 8, "scale": 0.1},
    "residual_mix": {},
    "smear_gate": {"version": 2, "window": 4},
}


@pytest.fixture(scope="module")
def rich():
    """(network, state, group of each parameter, Hessians, tokens): with tables, gates, projections and vectors."""
    net, (x, _) = random_model(replace(PLAIN, features=FEATURES)), documents((200, 300))
    state = {name: weight.detach() for name, weight in net.named_parameters()}
    return net, state, groups.by_parameter(net), hessians.collect(net, iter([x]), total=1), x


def result_of(rich, settings):
    _, state, group_of, grams, _ = rich
    return quantize(state, group_of, grams, settings, rows={}, multipliers={}, device=torch.device("cpu"))


# groups


def test_parameters_are_in_the_group_of_what_they_do(rich):
    found = rich[2]
    assert {name: group for name, group in found.items() if not name.startswith("blocks.")} == {
        "embedding.weight": "embedding",
        "bigram_hash.table.weight": "table",
        "value_embedding.table.weight": "table",
        "bigram_hash.projection.weight": "projection",
        "value_embedding.projection.weight": "projection",
        "sparse_gate.weight": "projection",
    }
    assert {name.split(".", 2)[2]: group for name, group in found.items() if name.startswith("blocks.3.")} == {
        **{f"attention.{part}.weight": "attention" for part in ("query", "key", "value", "output")},
        "mlp.up.weight": "mlp",
        "mlp.down.weight": "mlp",
    }


@pytest.mark.parametrize("case", ALONE)
def test_every_matrix_of_every_feature_is_in_one_group_and_no_vector_is(case):
    net = random_model(config(case, tied_head=False))
    found = groups.by_parameter(net)
    assert set(found.values()) <= set(groups.GROUPS) and found["unembedding.weight"] == "embedding"
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            assert f"{name}.weight" in found, name
    gates = {name for name in found if net.get_parameter(name).ndim == 3}
    assert gates == {f"{name}.weight" for name in net.features if name in ("dense_gate", "head_gate", "output_gate", "sparse_gate")}
    assert all(net.get_parameter(name).ndim >= 2 for name in found)


def test_copies_of_untied_mlp_are_quantized_like_the_originals():
    assert set(groups.by_parameter(random_model(config("untied_full"))).values()) == {"embedding", "attention", "mlp"}


# what each tensor gets


def test_small_tensors_vectors_and_groups_without_a_method_travel_as_float16(rich):
    state = rich[1]
    result = result_of(rich, settings_with({"min_elements": 193}, table={"method": "none"}))
    assert set(result.matrices) | set(result.float16) == set(state) and not set(result.matrices) & set(result.float16)
    assert {name for name in result.float16 if state[name].numel() >= 193} == {"bigram_hash.table.weight", "value_embedding.table.weight"}
    smaller = {name for name in rich[2] if state[name].numel() < 193}
    assert smaller and smaller <= set(result.float16)
    assert torch.equal(result.float16["residual_mix.weight"], state["residual_mix.weight"].half())


@pytest.mark.parametrize(
    "changes, schemes",
    [
        ({"every": NEAREST}, [{}]),
        ({"every": NEAREST | {"scales": "percentile", "clip": [0.999, 1.0]}}, [{}]),
        ({"every": {"bits": 8, "scales": "sigmas", "clip": 4.0}, "table": NEAREST, "projection": NEAREST}, [{}]),
        ({"every": {"bits": 8, "scales": "hessian_sigmas", "clip": 4.0}, "table": NEAREST, "projection": NEAREST}, [{}]),
        ({"every": NEAREST, "leaves": {"scales_as": "float8"}}, [{}]),
        (
            {"every": NEAREST, "leaves": {"rotation": {"groups": ["attention", "mlp"], "block": 8, "seed": 5}}},
            [{}, {"rotation": {"block": 8, "seed": 5}}],
        ),
        ({"every": NEAREST, "leaves": {"low_rank": {"matrices": 2, "rank": 2, "form": "asymmetric", "group": 4}}}, [{}]),
    ],
)
def test_network_comes_back_from_its_codes_whatever_the_method(rich, changes, schemes):
    net, _, _, _, x = rich
    leaves = changes.pop("leaves", {}) if "leaves" in (changes := dict(changes)) else {}
    result = result_of(rich, settings_with(leaves, **changes))
    back = dequantize.build(decoded(result), net.config.to_dict())
    assert F.cosine_similarity(back(x).flatten(), net(x).flatten(), dim=0) > 0.995
    kinds = [found.scheme for found in result.matrices.values()]
    assert all(kind in schemes for kind in kinds) and all(scheme in kinds for scheme in schemes)


def test_ternary_network_has_three_codes_and_its_gates_come_back_in_their_shape(rich):
    net = rich[0]
    result = result_of(rich, settings_with({"ternary": {"group": 4}}, every={"method": "ternary"}, table=NEAREST))
    assert result.matrices["sparse_gate.weight"].arrays["codes"].shape == (16, 4)
    assert result.matrices["blocks.0.mlp.up.weight"].scheme == {"unshrink": True}
    assert result.matrices["blocks.0.mlp.up.weight"].arrays["codes"].abs().max() == 1
    back = dequantize.build(decoded(result), net.config.to_dict())
    assert back.get_parameter("sparse_gate.weight").shape == (4, 4, 4)


def test_gate_has_a_scale_for_each_layer_and_head(rich):
    result = result_of(rich, settings_with(projection=NEAREST))
    weight, back = rich[1]["sparse_gate.weight"], decoded(result)["sparse_gate.weight"].reshape(4, 4, 4)
    assert ((weight - back).abs() <= weight.abs().amax(dim=2, keepdim=True) / 127 * 0.51).all()


def test_override_changes_what_its_pattern_names_and_the_last_one_counts(rich):
    overrides = [
        {"tensors": "blocks.[12].mlp.*", "bits": 4},
        {"tensors": "blocks.2.*.up.weight", "bits": 3, "clip": [2.0, 3.0]},
        {"tensors": "residual_mix.*", "bits": 2},
    ]
    result = result_of(rich, settings_with({"overrides": overrides}, every=NEAREST))
    found = {name: (group.bits, group.clip) for name, (_, group) in result.groups.items()}
    assert found["blocks.1.mlp.up.weight"] == (4, 1.0) and found["blocks.2.mlp.down.weight"] == (4, 1.0)
    assert found["blocks.2.mlp.up.weight"] == (3, (2.0, 3.0)) and found["blocks.3.mlp.up.weight"] == (8, 1.0)
    assert found["blocks.1.attention.query.weight"] == (8, 1.0) and "residual_mix.weight" not in found


def test_query_key_and_value_share_one_factor(rich, monkeypatch):
    calls, plain = [], gptq.factorise
    monkeypatch.setattr(gptq, "factorise", lambda hessian, **options: calls.append(1) or plain(hessian, **options))
    result = result_of(rich, settings_with(table={"method": "none"}, projection={"method": "none"}))
    assert len(result.matrices) == 1 + 4 * 6 and len(calls) == 1 + 4 * 4


def test_low_rank_correction_goes_to_the_largest_errors(rich):
    plain = result_of(rich, settings_with(every=NEAREST | {"bits": 4}))
    options = {"matrices": 3, "rank": 2, "form": "symmetric", "group": 64}
    result = result_of(rich, settings_with({"low_rank": options}, every=NEAREST | {"bits": 4}))
    norms = {name: (rich[1][name].reshape(-1, rich[1][name].size(-1)) - found.weights()).norm() for name, found in plain.matrices.items()}
    assert {name for name, found in result.matrices.items() if "left" in found.arrays} == set(sorted(norms, key=norms.get)[-3:])


def test_only_the_groups_of_prune_lose_codes(rich):
    plain = result_of(rich, settings_with(every=NEAREST | {"bits": 4}))
    result = result_of(rich, settings_with({"prune": {"codes": 40, "groups": ["mlp"]}}, every=NEAREST | {"bits": 4}))
    changed = {name: int((found.arrays["codes"] != plain.matrices[name].arrays["codes"]).sum()) for name, found in result.matrices.items()}
    assert sum(changed.values()) == 40 and all(result.groups[name][0] == "mlp" for name, count in changed.items() if count)


# what cannot work


@pytest.mark.parametrize(
    "leaves, changes, sentence",
    [
        ({}, {"mlp": {"bits": 9}}, r"quantize\.groups\.mlp\.bits is 9; it takes 2 to 8"),
        ({}, {"mlp": {"bits": 1}}, r"bits is 1; it takes 2 to 8"),
        (
            {},
            {"table": {"method": "gptqq"}},
            r"quantize\.groups\.table\.method is 'gptqq'; it takes none \| awq_lite \| entropy \| gptq \| nearest \| ternary",
        ),
        ({}, {"table": {"scales": "std"}}, r"quantize\.groups\.table\.scales is 'std'; it takes max \|"),
        ({}, {"table": {"clipp": 3}}, r"quantize\.groups\.table\.clipp is not a known parameter \(did you mean 'clip'"),
        ({}, {"mlp": {"clip": "wide"}}, r"quantize\.groups\.mlp\.clip is 'wide'; it takes float \| a list"),
        ({}, {"mlp": {"clip": []}}, r"quantize\.groups\.mlp\.clip is an empty list"),
        ({}, {"mlp": {"clip": [3.0, 0.0]}}, r"quantize\.groups\.mlp\.clip\[1\] is 0\.0; it takes more than 0"),
        ({}, {"mlp": {"scales": "percentile", "clip": 1.5}}, r"percentile takes a quantile above 0 and up to 1"),
        ({"rotation.groups": ["mpl"]}, {}, r"quantize\.rotation\.groups has 'mpl'; the groups are embedding, attention"),
        ({"prune.groups": ["all"]}, {}, r"quantize\.prune\.groups has 'all'"),
        ({"gptq.damping": float("inf")}, {}, r"quantize\.gptq\.damping is inf"),
        ({"gptq.block": 0}, {}, r"quantize\.gptq\.block is 0"),
        ({"min_elements": 0}, {}, r"quantize\.min_elements is 0"),
        ({"clip_floor": -1.0}, {}, r"quantize\.clip_floor is -1"),
        ({"low_rank.matrices": -1}, {}, r"quantize\.low_rank\.matrices is -1"),
        ({"prune.codes": -1}, {}, r"quantize\.prune\.codes is -1"),
        ({"device": "gpu"}, {}, r"quantize\.device is 'gpu'"),
        pytest.param(
            {"device": "cuda"},
            {},
            r"quantize\.device is cuda, but torch sees no GPU; set it to auto",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ({"scales_as": "int8"}, {}, r"quantize\.scales_as is 'int8'; it takes float16 \| float8"),
    ],
)
def test_setting_that_cannot_work_is_named_with_its_path(leaves, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings_with(leaves, **changes)


@pytest.mark.parametrize(
    "leaves, changes, sentence",
    [
        ({}, {"table": {"method": "gptq"}}, r"bigram_hash\.table\.weight \(quantize\.groups\.table\): it has no Hessian.*set the group's"),
        ({}, {"table": {"method": "nearest", "scales": "hessian_sigmas"}}, r"need a Hessian, which this tensor does not have; use sigmas"),
        ({"rotation": {"groups": ["mlp"], "block": 16, "seed": 0}}, {}, r"rotation\.block is 16; its 24 columns need .* such as 8"),
        ({"ternary": {"group": 5}}, {"mlp": {"method": "ternary"}}, r"ternary\.group is 5; it must divide its 16 columns"),
        ({"overrides": [{"bits": 4}]}, {}, r"quantize\.overrides\[0\] has no tensors"),
        ({"overrides": [{"tensors": "*", "bit": 4}]}, {}, r"quantize\.overrides\[0\]\.bit is not a known parameter \(did you mean 'bits'"),
        ({"overrides": [{"tensors": "*", "bits": 44}]}, {}, r"quantize\.overrides\[0\]\.bits is 44; it takes 2 to 8"),
    ],
)
def test_setting_that_does_not_fit_the_network_names_the_tensor(rich, leaves, changes, sentence):
    changes = {"table": NEAREST, "projection": NEAREST} | changes
    with pytest.raises(ValueError, match=sentence):
        result_of(rich, settings_with(leaves, **changes))


def test_weights_and_hessians_that_are_no_numbers_are_refused_by_name(rich):
    net, state, group_of, grams, x = rich
    settings = settings_with(table=NEAREST, projection=NEAREST)
    for name, value, sentence in (
        ("blocks.1.mlp.up.weight", float("nan"), r"weight blocks\.1\.mlp\.up\.weight is not finite"),
        ("residual_mix.weight", 1e6, r"weight residual_mix\.weight reaches 1e\+06, float16 holds 65504"),
    ):
        broken = dict(state) | {name: state[name] + value}
        with pytest.raises(ValueError, match=sentence):
            result_of((net, broken, group_of, grams, x), settings)
    for change, sentence in (
        (lambda hessian: 0 * hessian, r"blocks\.0\.mlp\.down\.weight .* all zero: no calibration token reached it"),
        (lambda hessian: hessian + float("inf"), r"blocks\.0\.mlp\.down\.weight .* not finite"),
    ):
        broken = dict(grams) | {"blocks.0.mlp.down": change(grams["blocks.0.mlp.down"])}
        with pytest.raises(ValueError, match=sentence):
            result_of((net, state, group_of, broken, x), settings)


# the stage, on a trained model


def test_gptq_has_less_output_error_than_rounding_on_every_layer_of_a_trained_model(finished):
    state, facts = tensors.load(finished / "artifacts/prequant_ttt/model.safetensors")
    grams = tensors.load(finished / "artifacts/calibrate/hessians.safetensors")[0]
    net = dequantize.build(state, facts["model"])
    errors = {}
    for method in ("gptq", "nearest"):
        settings = settings_with(every={"method": method, "bits": 6, "scales": "sigmas", "clip": 12.85})
        result = quantize(state, groups.by_parameter(net), grams, settings, rows={}, multipliers={}, device=torch.device("cpu"))
        errors[method] = {row["tensor"]: row["relative_error"] for row in table.rows(result, state, grams)}
    assert len(errors["gptq"]) == 14
    assert all(errors["gptq"][name] < errors["nearest"][name] for name in errors["gptq"] if name != table.REST), errors


def test_table_and_metrics_say_what_was_stored(project):
    rows = list(csv.DictReader((project / "artifacts/quantize/tensors.csv").open()))
    metrics = json.loads((project / "artifacts/quantize/metrics.json").read_text())
    stored, facts = tensors.load(project / "artifacts/quantize/model.safetensors")
    assert tuple(rows[0]) == table.COLUMNS and [row["tensor"] for row in rows][-1] == table.REST
    assert {row["tensor"] + ".codes" for row in rows[:-1]} == {name for name in stored if name.endswith(".codes")}
    assert sum(int(row["weights"]) for row in rows) == metrics["weights"]
    assert sum(int(row["weights"]) for row in rows[:-1]) == metrics["quantized_weights"]
    for row in rows[:-1]:
        codes = stored[row["tensor"] + ".codes"]
        bits = entropy.bits(codes.numpy()) + 16 * len(codes)
        assert float(row["bits_per_weight"]) == pytest.approx(bits / codes.numel(), rel=1e-5)
        assert int(row["max_code"]) == codes.abs().max() and 0 < float(row["relative_error"]) < 0.02
    total = sum(int(row["weights"]) * float(row["bits_per_weight"]) for row in rows)
    assert metrics["bits_per_weight"] == pytest.approx(total / metrics["weights"], rel=1e-5)
    assert facts["order"] == list(dict.fromkeys(facts["order"])) and set(facts["order"]) == set(stored) and facts["quantization"] == {}


def test_same_parameters_give_the_same_bytes_and_schemes_travel(project, tree):
    before = (project / "artifacts/quantize/model.safetensors").read_bytes()
    run_node("quantize")
    assert (project / "artifacts/quantize/model.safetensors").read_bytes() == before
    tree({"quantize.rotation": {"groups": ["mlp"], "block": 32, "seed": 2}})
    run_node("quantize")
    facts = tensors.load(project / "artifacts/quantize/model.safetensors")[1]
    assert facts["quantization"]["blocks.1.mlp.up.weight"] == {"rotation": {"block": 32, "seed": 2}}
    run_node("plain_score", "quantize")
    scores = [
        json.loads((project / f"artifacts/plain_score/{stage}/metrics.json").read_text())["bits_per_byte"]
        for stage in ("prequant_ttt", "quantize")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)


def test_raised_damping_is_said_and_recorded(project, capsys):
    path = project / "artifacts/calibrate/hessians.safetensors"
    grams, facts = tensors.load(path)
    grams["blocks.0.mlp.down"] = -0.05 * grams["blocks.0.mlp.down"].diagonal().mean() * torch.eye(128) + grams["blocks.0.mlp.down"]
    tensors.save(path, grams, facts)
    run_node("quantize")
    assert "blocks.0.mlp.down.weight: its Hessian needed a damping of 0.1 instead of 0.01" in capsys.readouterr().out
    metrics = json.loads((project / "artifacts/quantize/metrics.json").read_text())
    assert metrics["damping_raised"] == {"blocks.0.mlp.down.weight": 0.1}


def test_a_user_mistake_is_one_sentence_of_the_stage(project, tree, capsys):
    tree({"quantize.groups.mlp.bits": 9})
    with pytest.raises(SystemExit):
        run_node("quantize")
    assert capsys.readouterr().err == "caddie quantize: params.yaml: quantize.groups.mlp.bits is 9; it takes 2 to 8\n"
