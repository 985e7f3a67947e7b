"""Every feature by itself: its contract, its formula, and what it must not do. The published combinations are in test_stacks.py."""

import functools
import inspect
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.lib.blob import bundle
from stages.lib.node import closure
from stages.runtime.base import plugin
from stages.runtime.blob.container import ArtifactError
from stages.runtime.network import features, gpt
from stages.runtime.network.attention import rms
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.features import smear_gate
from stages.runtime.network.gpt import GPT, initialise
from stages.runtime.text.tokenizer import BOS
from stages.runtime.weights import dequantize
from tests.conftest import ROOT
from tests.reference import Reference
from tests.test_stacks import assert_no_look_ahead, documents, random_model

PLAIN = ModelConfig(
    vocabulary_size=40,
    num_layers=4,
    width=16,
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
LOOP = {"first_layer": 1, "last_layer": 2, "passes": 3, "start_step": 5, "start_fraction": 0.5}
LANES = {"first_layer": 2, "writes": "simultaneous"}
ALONE = {  # a name for the test, then the features
    "asymmetric_cap": {"asymmetric_cap": {"learned": True}},
    "bigram_hash": {"bigram_hash": {"buckets": 11, "width": 5, "scale": 0.3, "trigram": False}},
    "trigram": {"bigram_hash": {"buckets": 11, "width": 5, "scale": 0.3, "trigram": True}},
    "dense_gate": {"dense_gate": {}},
    "depth_recurrence": {"depth_recurrence": LOOP},
    "dtg": {"dtg": {}},
    "factorised": {"factorised_embedding": {"width": 6}},
    "factorised_smear": {"factorised_embedding": {"width": 6}, "smear_gate": {"version": 2, "window": 5}, "residual_mix": {}},
    "head_gate": {"head_gate": {}},
    "learned_xsa": {"learned_xsa": {}, "value_residual": {"form": "add"}},
    "ln_scale": {"ln_scale": {}},
    "mudd": {"mudd": {"early": 0, "late": 1}},
    "mudd_mixed": {"mudd": {"early": 0, "late": 2}, "depth_recurrence": LOOP | {"first_layer": 0}, "residual_mix": {}},
    "output_gate": {"output_gate": {"window": 3}},
    "parallel_residual": {"parallel_residual": {"first_layer": 2}},
    "residual_mix": {"residual_mix": {}},
    "signed_bigrams": {"signed_bigrams": {"buckets": 11, "width": 5, "scale": 0.3}},
    "signed_bigrams_looped": {"signed_bigrams": {"buckets": 11, "width": 16, "scale": 0.3}, "depth_recurrence": LOOP, "residual_mix": {}},
    "skip_attention": {"skip_attention": {"layers": [0, 2]}},
    "skip_attention_mixed": {
        "skip_attention": {"layers": [0]},
        "residual_mix": {},
        "value_residual": {"form": "add"},
        "parallel_residual": {"first_layer": 0},
    },
    "smear_1": {"smear_gate": {"version": 1, "window": 0}},
    "smear_2": {"smear_gate": {"version": 2, "window": 5}},
    "smear_3": {"smear_gate": {"version": 3, "window": 5}},
    "sparse_gate": {"sparse_gate": {"window": 3, "factor": 0.5}},
    "two_lane": {"two_lane": {"first_layer": 1, "writes": "simultaneous"}},
    "two_lane_mixed": {
        "two_lane": {"first_layer": 3, "writes": "simultaneous"},
        "residual_mix": {},
        "unet_skips": {"gated": True, "sets": 2},
    },
    "two_lane_sequential": {"two_lane": {"first_layer": 1, "writes": "sequential"}},
    "two_lane_sequential_mixed": {
        "two_lane": {"first_layer": 2, "writes": "sequential"},
        "residual_mix": {},
        "unet_skips": {"gated": True, "sets": 2},
    },
    "unet_plain": {"unet_skips": {"gated": False, "sets": 1}},
    "unet_gated": {"unet_skips": {"gated": True, "sets": 2}},
    "unet_looped": {"unet_skips": {"gated": True, "sets": 2}, "depth_recurrence": LOOP},
    "untied_full": {"untied_mlp": {"layers": [1, 2], "parts": "full"}, "depth_recurrence": LOOP},
    "untied_down": {"untied_mlp": {"layers": [2], "parts": "down"}, "depth_recurrence": LOOP},
    "value_embedding": {"value_embedding": {"layers": [0, 3], "width": 5, "scale": 0.4}},
    "value_blend": {"value_residual": {"form": "blend"}, "depth_recurrence": LOOP | {"first_layer": 0}},
    "value_add": {"value_residual": {"form": "add"}, "value_embedding": {"layers": [0, 2], "width": 5, "scale": 0.4}},
    "xsa": {"xsa": {"last_layers": 2}},
    "xsa_gated": {"xsa": {"last_layers": 4}, "sparse_gate": {"window": 3, "factor": 1.0}, "value_residual": {"form": "add"}},
}
REBUILT = {"factorised_embedding", "skip_attention"}  # the parameters of the plain network are not all there, or have another shape
LOOKS_ACROSS = ("bigram_hash", "signed_bigrams", "signed_bigrams_looped", "trigram", "smear_1", "smear_3")
FILES = plugin.names("features")


def config(case: str = "", **changes) -> ModelConfig:
    return replace(PLAIN, features=ALONE.get(case, {}), **changes)


def reference(net, **options):
    return Reference({name: weight.detach() for name, weight in net.named_parameters()}, net.config.to_dict(), **options)


def test_every_file_is_tested_and_every_feature_acts():
    assert {name for case in ALONE.values() for name in case} | set(features.TRAINING_ONLY) == set(FILES)  # the latter: test_structure.py
    for case in ALONE:
        (x, _), net = documents(), random_model(config(case))
        bare = random_model(PLAIN)
        shapes = {name: weight.shape for name, weight in bare.named_parameters()}
        bare.load_state_dict(
            {name: weight for name, weight in net.state_dict().items() if shapes.get(name) == weight.shape},
            strict=not REBUILT & net.features.keys(),
        )
        assert not torch.allclose(net(x), bare(x), atol=0 if case == "asymmetric_cap" else 1e-4, rtol=1e-6), case  # small logits


@pytest.mark.parametrize("case", ALONE)
def test_methods_are_hooks_that_the_spine_calls_and_structural_features_are_known(case):
    for name, feature in random_model(config(case)).features.items():
        classes = type(feature).__mro__[: type(feature).__mro__.index(torch.nn.Module)]
        own = {method for kind in classes for method in vars(kind) if callable(vars(kind)[method]) and not method.startswith("_")}
        own -= {"initialise"}
        structural = {"depth_recurrence": {"layers"}, "unet_skips": {"merge"}, "two_lane": {"write"}}.get(name, set())
        assert own - structural <= set(features.HOOKS)
        assert own or name in features.STRUCTURAL
        assert bool(structural) <= (name in features.STRUCTURAL)
        source = inspect.getsource(gpt)
        assert (f'"{name}"' in source) == (name in features.STRUCTURAL)


@pytest.mark.parametrize("case", ALONE)
def test_feature_equals_its_formula(case):
    net, (x, cu_seqlens) = random_model(config(case)), documents()
    for arguments, starts in (((x,), (0,)), ((x, cu_seqlens), cu_seqlens[:-1].tolist())):
        np.testing.assert_allclose(net(*arguments)[0].detach(), reference(net).logits(x[0].tolist(), starts), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"mlp_negative_slope": 0.0}, {"rope_trained_length": 4}, {"rope_trained_length": 10}, {"tied_head": False}], ids=str
)
def test_plain_settings_equal_their_formulas(changes):
    net, (x, _) = random_model(config(**changes)), documents()
    np.testing.assert_allclose(net(x)[0].detach(), reference(net).logits(x[0].tolist()), rtol=0, atol=1e-5)
    plain = random_model(PLAIN)
    plain(x)
    angles, usual = (model.blocks[0].attention.rotary.cached[10, 10, x.device][0] for model in (net, plain))
    assert torch.equal(angles, usual) == (changes.get("rope_trained_length") != 4)  # the row has 10 tokens


def test_without_features_the_network_and_its_initial_weights_are_the_plain_ones_to_the_bit():
    """The spine before there were features, written out: the default result must not depend on their being there."""
    net, generator = GPT(PLAIN), torch.Generator().manual_seed(4)
    initialise(net, generator=generator)
    generator = torch.Generator().manual_seed(4)
    for name, weight in net.named_parameters():
        expected = torch.ones_like(weight)
        if name == "embedding.weight":
            expected.normal_(0.0, 0.02, generator=generator)
        elif name.endswith(("query.weight", "key.weight", "value.weight", "up.weight")):
            torch.nn.init.orthogonal_(expected, generator=generator)
        elif name.endswith(("output.weight", "down.weight")):
            expected.zero_()
        elif name.endswith("query_gain"):
            expected.fill_(1.5)
        assert torch.equal(weight, expected), name
    net, (tokens, _) = random_model(PLAIN), documents()
    x = rms(net.embedding(tokens))
    for block in net.blocks:
        a, u = block.attention, rms(x)
        q, k, v = (layer(u).view(1, 10, -1, 4).transpose(1, 2) for layer in (a.query, a.key, a.value))
        q, k = a.rotary(rms(q)) * a.query_gain.view(1, -1, 1, 1), a.rotary(rms(k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + block.attention_scale * a.output(y.transpose(1, 2).reshape(1, 10, 16))
        x = x + block.mlp_scale * block.mlp.down(F.leaky_relu(block.mlp.up(rms(x)), 0.5).square())
    assert torch.equal(net(tokens), 30 * torch.tanh(F.linear(rms(x), net.embedding.weight) / 30))


@pytest.mark.parametrize("case", ALONE)
def test_row_t_ignores_tokens_after_t(case):
    net, (x, cu_seqlens) = random_model(config(case)), documents()
    assert_no_look_ahead(net, x, cu_seqlens)


@pytest.mark.parametrize("case", ALONE)
def test_rows_of_a_batch_do_not_touch_each_other(case):
    net, (x, _) = random_model(config(case)), documents()
    both = torch.cat((x, (x + 7) % 40))
    changed = torch.cat((x, (x + 9) % 40))
    assert torch.equal(net(both)[0], net(changed)[0])


@pytest.mark.parametrize("case", ALONE)
def test_packed_documents_do_not_touch_each_other_unless_the_feature_looks_across(case):
    net, (x, cu_seqlens) = random_model(config(case)), documents()
    changed = x.clone()
    changed[0, 1:4], changed[0, 4] = (changed[0, 1:4] - 3) % 36 + 4, 9  # the first document, and the second: one token
    same = torch.equal(net(x, cu_seqlens)[0, 5:], net(changed, cu_seqlens)[0, 5:])
    assert same == (case not in LOOKS_ACROSS)
    if same:
        alone = torch.cat([net(part) for part in x.split((4, 1, 5), dim=1)], dim=1)
        assert torch.allclose(net(x, cu_seqlens), alone, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("case", ALONE)
def test_shortest_rows_are_predicted(case, length):
    net, (x, _) = random_model(config(case)), documents()
    np.testing.assert_allclose(net(x[:, :length])[0].detach(), reference(net).logits(x[0, :length].tolist()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ALONE)
def test_gradients_reach_every_parameter_which_has_the_features_name(case):
    net, (x, _) = random_model(config(case)).train(), documents()
    F.cross_entropy(net(x)[0], x[0].roll(-1)).backward()
    assert not [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    plain = {name for name, _ in GPT(PLAIN).named_parameters()}
    assert all(name.split(".")[0] in ALONE[case] for name, _ in net.named_parameters() if name not in plain)


INITIAL = {
    "bigram_hash.table.weight": 0.0,
    "bigram_hash.scale": 0.3,
    "dtg.weight": 0.0,
    "dtg.bias": 2.0,
    "head_gate.weight": 0.0,
    "head_gate.bias": 4.0,
    "output_gate.weight": 0.0,
    "smear_gate.gate": 0.0,
    "smear_gate.weight": 0.0,
    "smear_gate.strength": 0.0,
    "sparse_gate.weight": 0.0,
    "two_lane.stay": 1.1,
    "two_lane.attention": 1.0,
    "two_lane.mlp": 1.0,
    "unet_skips.weight": 1.0,
    "unet_skips.gate": 0.0,
    "untied_mlp.down.1.weight": 0.0,
    "untied_mlp.down.2.weight": 0.0,
    "value_embedding.scale": 0.4,
    "value_embedding.layer_scale": 1.0,
}
INITIAL |= {"asymmetric_cap.positive": 30.0, "asymmetric_cap.negative": 30.0, "learned_xsa.strength": 0.0}
INITIAL |= dict.fromkeys(("mudd.output.0.weight", "mudd.output.1.weight", "mudd.before", "mudd.behind"), 0.0)
INITIAL |= {"signed_bigrams.table.weight": 0.0, "signed_bigrams.scale": 0.3}
RANDOM = {"value_embedding.table.weight": 0.01, "dense_gate.weight": 0.005}


@pytest.mark.parametrize("case", ALONE)
def test_initial_values_are_the_published_ones_and_leave_the_blocks_as_they_were(case):
    net, bare = GPT(config(case)), GPT(PLAIN)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(float("nan"))
    for model in (net, bare):
        initialise(model, generator=torch.Generator().manual_seed(0))
    weights = dict(net.named_parameters())
    assert REBUILT & net.features.keys() or all(torch.equal(weights[name], weight) for name, weight in bare.named_parameters())
    for name in weights.keys() - dict(bare.named_parameters()).keys():
        weight = weights[name]
        if (
            name.endswith(
                ("projection.weight", "embedding.input.weight", "embedding.output.weight", "mudd.input.0.weight", "mudd.input.1.weight")
            )
            or ".up." in name
        ):
            tall = weight if weight.size(0) > weight.size(1) else weight.mT
            assert torch.allclose(tall.mT @ tall, torch.eye(tall.size(1)), atol=1e-5)
        elif name in RANDOM:
            assert weight.std().item() == pytest.approx(RANDOM[name], rel=0.2) and abs(weight.mean().item()) < 0.2 * RANDOM[name]
        elif name == "residual_mix.weight":
            assert (weight[:, 0] == 1).all() and (weight[:, 1] == 0).all()
        elif name == "value_residual.weight":
            assert (weight == (0.5 if case == "value_blend" else 0.0)).all()
        else:
            root = 0.5 if name == "two_lane.stay" and "sequential" in case else 1.0  # it acts twice there
            assert torch.allclose(weight, torch.tensor(INITIAL[name] ** root), atol=0), name


def test_naive_initialisation_is_torchs_own_distribution():
    net = GPT(config(initialisation="naive"))
    initialise(net, generator=torch.Generator().manual_seed(0))
    up = net.blocks[0].mlp.up.weight
    assert up.abs().max() <= 16**-0.5 and up.std().item() == pytest.approx(16**-0.5 / 3**0.5, rel=0.1)
    torch.manual_seed(0)
    assert torch.nn.Linear(16, 24).weight.std().item() == pytest.approx(up.std().item(), rel=0.1)
    assert not net.blocks[0].attention.output.weight.any() and not net.blocks[0].mlp.down.weight.any()


def test_order_in_the_mapping_does_not_matter():
    """Neither sorted JSON nor DVC's comparison of parameters would keep it."""
    names = {"xsa": {"last_layers": 2}, "smear_gate": {"version": 2, "window": 5}, "bigram_hash": ALONE["bigram_hash"]["bigram_hash"]}
    one, two = (random_model(replace(PLAIN, features=dict(items))) for items in (names.items(), reversed(names.items())))
    assert list(one.features) == list(two.features) == ["bigram_hash", "smear_gate", "xsa"]
    assert torch.equal(one(documents()[0]), two(documents()[0]))
    assert json.dumps(one.config.to_dict()) == json.dumps(two.config.to_dict())


def test_recurrence_follows_training_and_is_on_in_a_finished_model():
    net, (x, _) = random_model(config("depth_recurrence")), documents()
    finished, recurrence = net(x), net.features["depth_recurrence"]
    states = []
    for step, fraction in ((0, 0.0), (5, 0.4), (4, 0.6), (5, 0.5), (9, 1.0)):
        net.progress(step=step, fraction=fraction)
        states.append(recurrence.looping)
    assert states == [False, False, False, True, True] and recurrence.layers() == [0, 1, 2, 1, 2, 1, 2, 3]
    net.progress(step=0, fraction=0.0)
    assert recurrence.layers() == [0, 1, 2, 3] and not torch.equal(net(x), finished)
    net.progress()
    assert torch.equal(net(x), finished)


@pytest.mark.parametrize("name", FILES)
def test_feature_and_its_options_are_documented(name):
    (row,) = (line for line in (ROOT / "docs/features.md").read_text().splitlines() if line.startswith(f"| `{name}` |"))
    options = inspect.signature(plugin.load("features", name).Feature).parameters.values()
    assert {option.name for option in options if option.kind is option.KEYWORD_ONLY} <= set(re.findall(r"`(\w+)`", row.split("|")[2]))


def test_bos_is_the_tokenizers():
    assert smear_gate.BOS == BOS


def test_xsa_leaves_nothing_along_the_tokens_own_value():
    feature = random_model(config("xsa")).features["xsa"]
    generator = torch.Generator().manual_seed(0)
    y, v = torch.randn(2, 5, 4, 4, generator=generator), torch.randn(2, 5, 2, 4, generator=generator)
    v[0, 0] = 0  # a value of length 0 takes nothing away
    out = feature.attended(y, v, 3)
    assert (out * v.repeat_interleave(2, dim=2)).sum(-1).abs().max() < 1e-5
    assert torch.equal(out[0, 0], y[0, 0]) and torch.equal(feature.attended(y, v, 1), y)


@pytest.mark.parametrize("case", ALONE)
def test_every_parameter_is_in_one_group_and_tables_go_with_the_embedding(case):
    net = GPT(config(case, tied_head=False))
    groups, names = gpt.groups(net), {id(weight): name for name, weight in net.named_parameters()}
    found = {group: {names[id(weight)] for weight in weights} for group, weights in groups.items()}
    assert sum(map(len, groups.values())) == len(names) == len(set().union(*found.values()))
    assert found["tables"] == {name for name in names.values() if name.endswith(("embedding.weight", "table.weight"))}
    skipped = len(ALONE[case].get("skip_attention", {"layers": ()})["layers"])
    assert all(name.startswith("blocks.") for name in found["matrices"]) and len(found["matrices"]) == 24 - 4 * skipped


@pytest.mark.parametrize("case", ["bigram_hash", "dense_gate", "two_lane", "value_embedding", "value_blend", "xsa_gated", "dtg", "smear_2"])
def test_half_precision_stays_near_full_precision(case):
    net, (x, cu_seqlens) = random_model(config(case)), documents()
    with torch.autocast("cpu", torch.bfloat16):
        for arguments in ((), (cu_seqlens,)):
            half = net(x, *arguments)
            with torch.autocast("cpu", enabled=False):
                full = net(x, *arguments)
            assert half.dtype == torch.float32 and not torch.equal(half, full)
            assert F.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.999


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"xsaa": {}}, "no file xsaa.py under runtime/network/features; did you mean 'xsa'"),
        ({"xsa": {"last_layer": 2}}, r"model\.features\.xsa has no option 'last_layer'; did you mean 'last_layers'"),
        ({"ln_scale": {"on": True}}, "it takes no options"),
        ({"xsa": {}}, r"model\.features\.xsa\.last_layers is missing; add it"),
        ({"xsa": {"last_layers": "all"}}, r"last_layers is 'all'; it takes a whole number"),
        ({"xsa": {"last_layers": True}}, "last_layers is True"),
        ({"xsa": {"last_layers": -1}}, "last_layers is -1"),
        ({"xsa": {"last_layers": 5}}, r"it takes 1 to model\.num_layers 4"),
        ({"xsa": {"last_layers": 0}}, "it takes 1 to"),
        ({"smear_gate": {"version": 4, "window": 0}}, r"version is 4; it takes 1 \| 2 \| 3"),
        ({"smear_gate": {"version": True, "window": 0}}, r"version is True; it takes 1 \| 2"),
        ({"smear_gate": {"version": 1, "window": 12}}, "set it to 0"),
        ({"smear_gate": {"version": 2, "window": 17}}, "model.width 16"),
        ({"unet_skips": {"gated": 1, "sets": 2}}, r"gated is 1; it takes true \| false"),
        ({"unet_skips": {"gated": True, "sets": 0}}, "sets of 1"),
        ({"bigram_hash": {"buckets": 1, "width": 4, "scale": 1.0, "trigram": False}}, "buckets of 2 or more"),
        ({"bigram_hash": {"buckets": 9, "width": 4, "scale": float("nan"), "trigram": False}}, "scale is nan; it takes a number"),
        ({"value_embedding": {"layers": [4], "width": 4, "scale": 1.0}}, "different layers below"),
        ({"value_embedding": {"layers": [], "width": 4, "scale": 1.0}}, "different layers below"),
        ({"value_embedding": {"layers": [1, 1], "width": 4, "scale": 1.0}}, "different layers below"),
        ({"value_embedding": {"layers": 3, "width": 4, "scale": 1.0}}, "layers is 3; it takes a list of whole numbers"),
        ({"sparse_gate": {"window": 17, "factor": 1.0}}, "1 to model.width"),
        ({"output_gate": {"window": 0}}, "1 to model.width"),
        ({"dense_gate": {}, "head_gate": {}}, "the gates dense_gate and head_gate; leave one"),
        ({"depth_recurrence": LOOP | {"last_layer": 4}}, "last_layer < model.num_layers 4"),
        ({"depth_recurrence": LOOP | {"first_layer": 3}}, "first_layer <= last_layer"),
        ({"depth_recurrence": LOOP | {"passes": 1}}, "2 to 64"),
        ({"depth_recurrence": LOOP | {"passes": 65}}, "2 to 64"),
        ({"depth_recurrence": LOOP | {"start_fraction": 1.5}}, "0 to 1"),
        ({"parallel_residual": {"first_layer": 4}}, r"0 to model\.num_layers 4 - 1"),
        ({"factorised_embedding": {"width": 16}}, r"1 to model\.width 16 - 1"),
        ({"factorised_embedding": {"width": 0}}, "1 to"),
        ({"factorised_embedding": {"width": 4}, **ALONE["bigram_hash"]}, "leave one of them"),
        ({"factorised_embedding": {"width": 4}, **ALONE["smear_2"]}, "window is 5, but factorised_embedding has a width of 4"),
        ({"untied_mlp": {"layers": [1], "parts": "full"}}, "name that too"),
        ({"untied_mlp": {"layers": [3], "parts": "down"}, "depth_recurrence": LOOP}, "layers that recur, 1 to 2"),
        ({"multi_token_prediction": {"heads": 0, "weight": 0.1}}, "heads of 1 or more"),
        ({"skip_attention": {"layers": [4]}}, r"different layers below model\.num_layers 4"),
        ({"skip_attention": {"layers": [0, 1, 2, 3]}}, "not all of them"),
        ({"skip_attention": {"layers": []}}, "different layers"),
        ({"skip_attention": {"layers": [0, 2]}, "two_lane": LANES}, "from layer 2 on, two_lane needs attention"),
        ({"skip_attention": {"layers": [1]}, "value_embedding": {"layers": [1, 2], "width": 4, "scale": 1.0}}, r"attention of \[1\]"),
        ({"two_lane": LANES | {"first_layer": 4}}, r"0 to model\.num_layers 4 - 1"),
        ({"two_lane": LANES | {"writes": "both"}}, r"writes is 'both'; it takes simultaneous \| sequential"),
        ({"two_lane": LANES, "depth_recurrence": LOOP}, "after the last layer that recurs, 2"),
        ({"two_lane": LANES | {"first_layer": 1}, "unet_skips": {"gated": True, "sets": 2}}, "in the second half"),
        ({"two_lane": LANES, "dtg": {}}, "leave one of them"),
        ({"xsa": {"last_layers": 1}, "learned_xsa": {}}, "which remove the same; leave one of them"),
        ({"mudd": {"early": 1, "late": 3}}, r"early < late < model\.num_layers 4 - 1, not 1 and 3"),
        ({"mudd": {"early": 0, "late": 1}, "two_lane": LANES}, "leave out two_lane"),
        ({"signed_bigrams": {"buckets": 9, "width": 17, "scale": 1.0}}, r"a width of 1 to model\.width 16"),
        ({"xsa": 4}, "mapping of features to mappings"),
        ([], "mapping of features"),
    ],
    ids=str,
)
def test_features_that_cannot_be_built_are_a_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        GPT(replace(PLAIN, features=given))


def test_feature_of_one_layer_that_needs_two_is_a_sentence():
    for given in ({"value_residual": {"form": "add"}}, {"unet_skips": {"gated": True, "sets": 1}}):
        with pytest.raises(ValueError, match="2 or more"):
            GPT(replace(PLAIN, num_layers=1, features=given))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"mlp_negative_slope": -0.1}, "mlp_negative_slope"),
        ({"rope_trained_length": -1}, "rope_trained_length"),
        ({"rope_dims": 2, "rope_trained_length": 8}, "rope_dims above 2"),
        ({"tied_head": 1}, r"true \| false"),
        ({"initialisation": "best"}, r"published \| naive"),
    ],
)
def test_plain_settings_that_cannot_be_are_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(PLAIN, **change)


def test_weights_of_a_model_without_the_feature_are_refused():
    state = {name: weight.detach() for name, weight in GPT(PLAIN).named_parameters()}
    with pytest.raises(ArtifactError, match=r"weight bigram_hash\.projection\.weight has shape None"):
        dequantize.build(state, config("bigram_hash").to_dict())


def test_package_holds_exactly_the_features_that_the_model_names():
    pack = functools.partial(bundle.code, plugins=["codecs/brotli"], evaluators=("sliding",))
    shipped = {path for path in pack(features=("xsa", "dtg")) if "/features/" in path}
    assert shipped == {"caddie/network/features/__init__.py", "caddie/network/features/dtg.py", "caddie/network/features/xsa.py"}
    assert {path for path in pack(features=()) if "/features/" in path} == {"caddie/network/features/__init__.py"}


@pytest.mark.parametrize("name", FILES)
def test_feature_imports_only_the_contract_and_the_configuration(name):
    """So that it ships alone, and no other feature's code is a reason to train again."""
    own = {path for path in closure.files(f"stages.runtime.network.features.{name}") if "/features/" in path or "/network/" in path}
    assert own == {
        f"stages/runtime/network/features/{name}.py",
        "stages/runtime/network/features/__init__.py",
        "stages/runtime/network/__init__.py",
        "stages/runtime/network/config.py",
    }
