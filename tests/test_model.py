"""The network: causal, exact at initialisation, and equal to plain formulas written out a second time."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from stages.runtime.blob.container import ArtifactError
from stages.runtime.network.attention import Rotary, rms
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT, initialise, matrices
from stages.runtime.weights import dequantize

CONFIG = ModelConfig(
    vocabulary_size=50,
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=48,
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


def model(*, trained=False, seed=0, changes=None):
    out = GPT(dataclasses.replace(CONFIG, **(changes or {})))
    generator = torch.Generator().manual_seed(seed)
    initialise(out, generator=generator)
    if trained:  # zero-initialised projections would hide half of the network
        with torch.no_grad():
            for weight in out.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return out.eval()


def tokens(batch=2, length=12, seed=1):
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_row_t_ignores_tokens_after_t():
    net, x = model(trained=True), tokens()
    for t in range(x.size(1) - 1):
        changed = x.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 7) % 50
        assert torch.equal(net(changed)[:, : t + 1], net(x)[:, : t + 1])


def test_row_t_depends_on_every_token_up_to_t():
    net, x = model(trained=True), tokens(batch=1)
    for t in range(x.size(1)):
        changed = x.clone()
        changed[0, t] = (changed[0, t] + 7) % 50
        assert not torch.equal(net(changed)[0, -1], net(x)[0, -1])


def test_sequences_of_a_batch_do_not_touch_each_other():
    net, x = model(trained=True), tokens()
    changed = x.clone()
    changed[1] = (changed[1] + 7) % 50
    assert torch.equal(net(changed)[0], net(x)[0])


def test_blocks_start_as_the_identity_and_the_loss_at_ln_v():
    net, x = model(), tokens(8, 64)
    assert torch.allclose(net.hidden(x), rms(rms(net.embedding(x))))
    assert F.cross_entropy(net(x).flatten(0, 1), tokens(8, 64, seed=9).flatten()).item() == pytest.approx(math.log(50), abs=0.1)


def test_same_seed_same_weights_and_every_parameter_has_a_rule():
    one, two, other = model(), model(), model(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    assert all(
        torch.allclose(w.weight @ w.weight.mT, torch.eye(w.weight.size(0)), atol=1e-5)
        for name, w in matrices(one).items()
        if name.endswith(("query", "key", "value"))
    )


def test_gradients_reach_every_parameter():
    net, x = model(trained=True).train(), tokens()
    F.cross_entropy(net(x).flatten(0, 1), x.flatten()).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.parameters())


def test_forward_equals_the_formulas_written_out():
    net, x = model(trained=True), tokens(1, 6)
    weights = {name: weight.detach().double() for name, weight in net.named_parameters()}
    norm = lambda v: v / (v.square().mean(-1, keepdim=True) + 2**-23).sqrt()  # noqa: E731
    stream = norm(weights["embedding.weight"][x[0]])
    for layer in range(2):
        w = {name.removeprefix(f"blocks.{layer}."): weight for name, weight in weights.items() if name.startswith(f"blocks.{layer}.")}
        u = norm(stream)
        attended = []
        for head in range(4):
            group = head // 2
            q = norm(u @ w["attention.query.weight"][8 * head : 8 * head + 8].mT)
            k = norm(u @ w["attention.key.weight"][8 * group : 8 * group + 8].mT)
            v = u @ w["attention.value.weight"][8 * group : 8 * group + 8].mT
            rows = []
            for t in range(6):
                scores = torch.stack([w["attention.query_gain"][head] * turn(q[t], t) @ turn(k[s], s) / math.sqrt(8) for s in range(t + 1)])
                rows.append(torch.softmax(scores, 0) @ v[: t + 1])
            attended.append(torch.stack(rows))
        stream = stream + w["attention_scale"] * (torch.cat(attended, -1) @ w["attention.output.weight"].mT)
        z = norm(stream) @ w["mlp.up.weight"].mT
        stream = stream + w["mlp_scale"] * (torch.where(z > 0, z, 0.5 * z).square() @ w["mlp.down.weight"].mT)
    logits = 30 * torch.tanh(norm(stream) @ weights["embedding.weight"].mT / 30)
    assert torch.allclose(net(x)[0].double(), logits, atol=1e-5)


def turn(vector, t):
    """Rotary embedding of the first four of eight dimensions, as complex numbers."""
    out = vector.clone()
    for i in range(2):
        turned = complex(vector[i], vector[i + 2]) * complex(math.cos(t * 1e4 ** (-2 * i / 4)), -math.sin(t * 1e4 ** (-2 * i / 4)))
        out[i], out[i + 2] = turned.real, turned.imag
    return out


def test_rotated_scores_depend_on_relative_position_only():
    rotary = Rotary(16, 1e4)
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).expand(40, 2, 16).permute(1, 0, 2)
    scores = rotary(q[None, None])[0, 0] @ rotary(k[None, None])[0, 0].mT
    assert torch.allclose(scores.diagonal(3)[:1].expand(37), scores.diagonal(3), atol=1e-5)


def test_angles_of_a_few_lengths_are_kept_and_are_those_of_a_fresh_rotation():
    rotary = Rotary(16, 1e4, trained_length=20)
    for length in (8, 40, 8, 16, 24, 32, 8):
        x = torch.randn(1, 2, length, 24, generator=torch.Generator().manual_seed(length))
        assert torch.equal(rotary(x), Rotary(16, 1e4, trained_length=20)(x))
        assert len(rotary.cached) <= 4
        kept = rotary.cached[length, length, x.device]
        assert rotary(x).shape == x.shape and rotary.cached[length, length, x.device] is kept  # not computed again
    assert [length for length, _, _ in rotary.cached] == [16, 24, 32, 8]


def test_rows_of_another_length_in_between_do_not_compile_the_network_again():
    """As a holdout measurement between two steps with packed rows."""
    torch._dynamo.reset()
    graphs, net = [], model(trained=True)
    fast = torch.compile(net, fullgraph=True, dynamic=False, backend=lambda graph, inputs: graphs.append(1) or graph.forward)
    net(tokens(1, 8))  # the cache of angles is a guard until it holds this length
    for other in (6, 7, 5):
        assert torch.equal(fast(tokens(1, 8)), net(tokens(1, 8)))
        net(tokens(1, other))
    fast(tokens(1, 8))
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_golden_logits_of_the_tiny_model():
    """These digits change only if the mathematics or the initialisation changes: then say so in docs/log.md."""
    logits = model(trained=True)(tokens(1, 8))[0, -1, :5]
    assert logits.tolist() == pytest.approx(GOLDEN_LOGITS, abs=2e-5)


GOLDEN_LOGITS = [0.320921, -0.415623, -0.539860, -0.796719, 0.921295]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"num_heads": 3}, "divisible by num_heads"),
        ({"width": "64"}, "takes a positive int"),
        ({"num_layers": 1 << 30}, "up to"),
        ({"num_kv_heads": 3}, "divisible by num_kv_heads"),
        ({"rope_dims": 3}, "even"),
        ({"rope_dims": 10}, "at most the head width"),
        ({"logit_softcap": 0.0}, "positive"),
        ({"num_layers": 0}, "positive"),
        ({"num_kv_heads": 0}, "positive"),
    ],
)
def test_architecture_that_cannot_be_built_is_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ModelConfig(**(CONFIG.to_dict() | change))


def test_weights_that_do_not_fit_the_configuration_are_refused():
    state = {name: weight.detach() for name, weight in model().named_parameters()}
    with pytest.raises(ArtifactError, match=r"blocks\.0\.attention\.key\.weight"):
        dequantize.build(state | {"blocks.0.attention.key.weight": torch.zeros(3, 3)}, CONFIG.to_dict())
    with pytest.raises(ArtifactError, match="extra"):
        dequantize.build(state | {"extra": torch.zeros(1)}, CONFIG.to_dict())
    with pytest.raises(ArtifactError, match="it is damaged"):
        dequantize.build(state, CONFIG.to_dict() | {"num_layers": 100_000})
    with pytest.raises(ValueError, match="this version needs"):
        dequantize.build(state, {"width": 1})
