"""The published stacks: exact sizes, and in small the same wiring, compared with a plain network and with themselves."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.calibrate import hessians
from stages.runtime.blob import container
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT, initialise
from stages.runtime.weights import dequantize
from tests.quantizing import eight_bits, quantized
from tests.reference import Reference, execution

COMMON = {
    "num_layers": 11,
    "width": 512,
    "num_heads": 8,
    "num_kv_heads": 4,
    "mlp_negative_slope": 0.5,
    "rope_dims": 16,
    "rope_base": 1e4,
    "rope_trained_length": 0,
    "logit_softcap": 30.0,
    "tied_head": True,
    "embedding_std": 0.005,
    "initialisation": "published",
}
ELEVEN = {"residual_mix": {}, "ln_scale": {}}
VALUE = {"value_embedding": {"layers": [9, 10], "width": 128, "scale": 0.1}}


def bank_stack(buckets: int, width: int, *, xsa: int, gated: bool) -> dict:
    """The family of #549: 1024 tokens, three times the width, bigram hash, smear gate, value embedding."""
    return COMMON | {
        "vocabulary_size": 1024,
        "mlp_width": 1536,
        "query_gain": 1.5,
        "rope_trained_length": 1024,
        "features": ELEVEN
        | VALUE
        | {
            "xsa": {"last_layers": xsa},
            "bigram_hash": {"buckets": buckets, "width": width, "scale": 0.05, "trigram": False},
            "smear_gate": {"version": 1, "window": 0},
            "unet_skips": {"gated": gated, "sets": 5},
        },
    }


def looped_stack(gain: float) -> dict:
    """#1285 and #1399: 4096 tokens, layers 4 and 5 twice from step 3000."""
    return COMMON | {
        "vocabulary_size": 4096,
        "mlp_width": 2048,
        "query_gain": gain,
        "features": ELEVEN
        | VALUE
        | {
            "xsa": {"last_layers": 11},
            "unet_skips": {"gated": True, "sets": 5},
            "depth_recurrence": {"first_layer": 4, "last_layer": 5, "passes": 2, "start_step": 3000, "start_fraction": 0.0},
        },
    }


def last_stack(gain: float, softcap: float, **more: dict) -> dict:
    """#1493, #1855, #1958: 8192 tokens, layers 3 to 5 three times from 0.35 of the budget."""
    return COMMON | {
        "vocabulary_size": 8192,
        "mlp_width": 2048,
        "query_gain": gain,
        "logit_softcap": softcap,
        "features": ELEVEN
        | more
        | {
            "xsa": {"last_layers": 11},
            "unet_skips": {"gated": True, "sets": 8},
            "depth_recurrence": {"first_layer": 3, "last_layer": 5, "passes": 3, "start_step": 0, "start_fraction": 0.35},
        },
    }


LANES = {
    "two_lane": {"first_layer": 8, "writes": "simultaneous"},
    "sparse_gate": {"window": 12, "factor": 0.5},
    "smear_gate": {"version": 2, "window": 12},
}
CAPS = {"asymmetric_cap": {"learned": False}}
STACKS = {
    "naive": (
        17_059_912,
        COMMON
        | {
            "vocabulary_size": 1024,
            "num_layers": 9,
            "mlp_width": 1024,
            "mlp_negative_slope": 0.0,
            "rope_dims": 64,
            "query_gain": 1.5,
            "initialisation": "naive",
            "features": {"residual_mix": {}, "unet_skips": {"gated": False, "sets": 4}},
        },
    ),
    "549": (26_928_220, bank_stack(1536, 128, xsa=4, gated=False)),
    "1150": (26_993_756, bank_stack(2048, 128, xsa=4, gated=False)),
    "1306": (26_993_756, bank_stack(2048, 128, xsa=11, gated=False)),
    "1019": (27_067_484, bank_stack(3072, 112, xsa=11, gated=False)),
    "1060": (27_038_812, bank_stack(2816, 112, xsa=11, gated=False)),
    "1172": (27_201_116, bank_stack(2816, 160, xsa=11, gated=True)),
    "1285": (34_401_371, looped_stack(4.0)),
    "1399": (34_401_371, looped_stack(5.0)),
    "1493": (35_944_536, last_stack(5.25, 30.0, parallel_residual={"first_layer": 7})),
    "1855": (35_945_671, last_stack(5.0, 30.0, **LANES)),
    "1958": (35_945_671, last_stack(5.0, 15.0, **LANES)),
    "1945": (35_945_673, last_stack(5.0, 30.0, **LANES, **CAPS)),
    "1953": (35_945_673, last_stack(5.25, 30.0, **LANES, **CAPS)),
    "2014": (35_945_673, last_stack(5.25, 30.0, **LANES, **CAPS)),
    "2135": (35_945_673, last_stack(5.0, 30.0, **LANES | {"smear_gate": {"version": 3, "window": 12}}, **CAPS)),
}
WIRINGS = ("naive", "549", "1306", "1172", "1285", "1493", "1855", "2135")  # in small the others are one of these again
DOCUMENTS_MIX = ("549", "1306", "1172", "2135")  # their smear gate and bigram hash look across documents
RECURS = ("1285", "1493", "1855")


def small(name: str) -> ModelConfig:
    """The stack with all its layers and wiring, and hardly any width."""
    values = STACKS[name][1]
    shrunk = {"bigram_hash": {"buckets": 13, "width": 5}, "value_embedding": {"width": 6}, "sparse_gate": {"window": 5}}
    features = {feature: options | shrunk.get(feature, {}) for feature, options in values["features"].items()}
    if features.get("smear_gate", {}).get("version", 1) > 1:
        features["smear_gate"] |= {"window": 5}
    return ModelConfig(
        **(
            values
            | {
                "vocabulary_size": 40,
                "width": 16,
                "num_heads": 4,
                "num_kv_heads": 2,
                "mlp_width": 24,
                "rope_dims": 4,
                "rope_trained_length": 4 if values["rope_trained_length"] else 0,
                "features": features,
            }
        )
    )


def random_model(config: ModelConfig, seed: int = 0) -> GPT:
    """Weights with nothing left at zero, which would hide half of the network."""
    net, generator = GPT(config), torch.Generator().manual_seed(seed)
    initialise(net, generator=generator)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return net.eval()


def assert_no_look_ahead(net: GPT, x, cu_seqlens, every: int = 1) -> None:
    """Logits up to t stay bit-equal when every later token changes, for every `every`-th t, as one row and as packed documents."""
    for arguments in ((), (cu_seqlens,)):
        before = net(x, *arguments)
        for t in range(0, x.size(1) - 1, every):
            changed = x.clone()
            changed[:, t + 1 :] = (changed[:, t + 1 :] + 7) % 40
            assert torch.equal(net(changed, *arguments)[:, : t + 1], before[:, : t + 1])


def documents(lengths=(4, 1, 5), seed=3):
    """One row of documents, each beginning with BOS, and where they begin."""
    rows = [[1, *np.random.default_rng(seed + i).integers(4, 40, length - 1).tolist()] for i, length in enumerate(lengths)]
    return torch.tensor([[token for row in rows for token in row]]), torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


@pytest.mark.parametrize("name", STACKS)
def test_stack_has_exactly_the_published_number_of_parameters(name):
    total, values = STACKS[name]
    with torch.device("meta"):
        net = GPT(ModelConfig(**values))
    assert sum(weight.numel() for weight in net.parameters()) == total


def assert_equals_the_reference(net, *, looping=True):
    x, cu_seqlens = documents()
    plain = Reference({name: weight.detach() for name, weight in net.named_parameters()}, net.config.to_dict(), looping=looping)
    for arguments, starts in (((x,), (0,)), ((x, cu_seqlens), cu_seqlens[:-1].tolist())):
        np.testing.assert_allclose(net(*arguments)[0].detach().numpy(), plain.logits(x[0].tolist(), starts), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", WIRINGS)
def test_stack_equals_the_plain_network(name):
    assert_equals_the_reference(random_model(small(name)))


@pytest.mark.parametrize("name", RECURS)
def test_before_its_recurrence_starts_the_stack_equals_the_plain_network_without_it(name):
    net = random_model(small(name))
    net.progress(step=2999, fraction=0.34)
    assert_equals_the_reference(net, looping=False)
    net.progress(step=3000, fraction=0.35)
    assert_equals_the_reference(net)


@pytest.mark.parametrize(
    "name, order, pairs",
    [
        ("1285", [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 10], {(6, 5): 0, (7, 4): 1, (8, 3): 2, (9, 2): 3, (10, 1): 4, (11, 0): 4}),
        (
            "1855",
            [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10],
            {(8, 7): 0, (9, 6): 1, (10, 5): 2, (11, 4): 3, (12, 3): 4, (13, 2): 5, (14, 1): 6, (15, 0): 7},
        ),
        ("naive", [*range(9)], {(4, 3): 0, (5, 2): 1, (6, 1): 2, (7, 0): 3}),
    ],
)
def test_layers_run_and_skips_pair_as_published(name, order, pairs, monkeypatch):
    """Keys: place in the execution that reads, and the one that wrote; value: the set of parameters."""
    net, ran, found = random_model(small(name)), [], {}
    assert execution(net.config.to_dict(), True) == order

    def noted(layer):
        def run(physical, *given):
            out = layer(physical, *given)
            (out[0] if isinstance(out, tuple) else out).written_at = len(ran)
            ran.append(physical)
            return out

        return run

    skips = net.features["unet_skips"]
    merge = skips.merge

    def record(x, skip, since_middle):
        found[len(ran), skip.written_at] = min(since_middle, len(skips.weight) - 1)
        return merge(x, skip, since_middle)

    for layer in ("_layer", "_two_lane_layer"):
        monkeypatch.setattr(net, layer, noted(getattr(net, layer)))
    monkeypatch.setattr(skips, "merge", record)
    net(documents()[0])
    assert ran == order and found == pairs


@pytest.mark.parametrize("name", WIRINGS)
def test_row_t_of_a_stack_ignores_tokens_after_t(name):
    net, (x, cu_seqlens) = random_model(small(name)), documents()
    assert_no_look_ahead(net, x, cu_seqlens, every=2)


@pytest.mark.parametrize("name", WIRINGS)
def test_a_changed_document_leaves_the_next_unless_the_published_stack_looks_across(name):
    net, (x, cu_seqlens) = random_model(small(name)), documents()
    changed = x.clone()
    changed[0, 1:5] = 4 + (changed[0, 1:5] + 7) % 36  # all but the last document
    assert torch.equal(net(x, cu_seqlens)[0, 5:], net(changed, cu_seqlens)[0, 5:]) == (name not in DOCUMENTS_MIX)


@pytest.mark.parametrize("name", WIRINGS)
def test_gradients_reach_every_parameter_of_a_stack(name):
    net, (x, _) = random_model(small(name)).train(), documents()
    F.cross_entropy(net(x)[0], x[0].roll(-1)).backward()
    without = {name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert without == {f"{name}.{sign}" for name in CAPS if name in net.features for sign in ("positive", "negative")}, (
        "caps that are not learned"
    )


@pytest.mark.parametrize("name", WIRINGS)
def test_stack_starts_as_published(name):
    """Every branch of the blocks is 0, so the loss is ln V; no parameter is left unset."""
    net = GPT(small(name))
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(float("nan"))
    initialise(net, generator=torch.Generator().manual_seed(0))
    assert all(weight.isfinite().all() for weight in net.parameters())
    x, _ = documents((40,))
    assert F.cross_entropy(net(x)[0], x[0].roll(-1)).item() == pytest.approx(np.log(40), abs=0.02)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "1855" else pytest.mark.slow) for name in WIRINGS])
def test_stack_compiles_to_one_graph_before_and_after_its_recurrence_starts(name):
    torch._dynamo.reset()
    net, (x, _) = random_model(small(name)), documents()
    fast = torch.compile(net, fullgraph=True, backend="eager")
    for step, fraction in ((0, 0.0), (3000, 0.5)):
        net.progress(step=step, fraction=fraction)
        assert torch.allclose(fast(x), net(x), atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["549", "1172", "1285", "1493", "1855"])
def test_quantized_stack_comes_back_with_its_features(name):
    net, (x, _) = random_model(small(name)), documents((30,))
    stored = quantized(net, hessians.collect(net, iter([x]), total=1), eight_bits()).stored()
    packed = container.Model({key: tensor.numpy() for key, tensor in stored.items()}, net.config.to_dict(), {})
    model = container.unpack(container.pack(packed, [container.Coding("codecs/zlib", {"level": 9}, (), tuple(packed.tensors))]))
    tensors, config = model.tensors, model.config
    back = dequantize.build(dequantize.weights(tensors), config)
    assert back.config == net.config and list(back.features) == list(net.features)
    assert "depth_recurrence" not in back.features or back.features["depth_recurrence"].looping
    # 8 bits are close to the weights; a feature that was lost would not be
    assert F.cosine_similarity(back(x).flatten(), net(x).flatten(), dim=0) > 0.99
    assert json.loads(json.dumps(config, sort_keys=True)) == net.config.to_dict()
