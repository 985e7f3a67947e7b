"""Features that change which parameters there are: what is gone, what is kept out of the artifact, and how the rest goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.calibrate import hessians
from stages.lib.text import prefixes
from stages.runtime.network import features, gpt
from stages.runtime.network.gpt import GPT
from stages.runtime.weights import dequantize
from stages.train import loss
from stages.train.kernels import softcap_cross_entropy
from tests.quantizing import decoded, eight_bits, quantized
from tests.test_features import PLAIN, config
from tests.test_stacks import documents, random_model


def loss_of(net):
    return loss.of(net, softcap_cross_entropy.plain)


def test_skipped_attention_has_no_parameters_and_the_other_layers_keep_theirs():
    names = dict(GPT(config("skip_attention")).named_parameters())
    gone = {name for name in dict(GPT(PLAIN).named_parameters()) if name not in names}
    assert gone == {
        f"blocks.{layer}.{part}"
        for layer in (0, 2)
        for part in (
            "attention_scale",
            "attention.query_gain",
            *(f"attention.{matrix}.weight" for matrix in ("query", "key", "value", "output")),
        )
    }


@pytest.mark.parametrize(
    "case, tied", [("factorised", True), ("factorised", False), ("skip_attention", True), ("untied_full", True), ("untied_down", True)]
)
def test_network_that_is_built_differently_is_quantized_and_comes_back(case, tied):
    net, (x, _) = random_model(config(case, tied_head=tied)), documents((30,))
    grams = hessians.collect(net, iter([x]), total=1)
    result = quantized(net, grams, eight_bits())
    expected = set(gpt.matrices(net)) | {"embedding"} | ({"unembedding"} if not tied else set())
    assert set(result.matrices) == {f"{name}.weight" for name in expected}
    back = dequantize.build(decoded(result), net.config.to_dict())
    assert F.cosine_similarity(back(x).flatten(), net(x).flatten(), dim=0) > 0.99


def untied_weights(net):
    return {
        (part, layer): (own.weight, getattr(net.blocks[int(layer)].mlp, part).weight)
        for part in ("up", "down")
        for layer, own in getattr(net.features["untied_mlp"], part).items()
    }


def test_untied_mlp_becomes_a_copy_when_the_recurrence_starts_and_only_then():
    net, (x, _) = random_model(config("untied_full")), documents()
    tied = random_model(config("depth_recurrence"))
    tied.load_state_dict({name: weight for name, weight in net.state_dict().items() if not name.startswith("untied_mlp")})
    assert not torch.allclose(net(x), tied(x), atol=1e-4)
    for step, fraction in ((0, 0.0), (4, 0.9), (5, 0.4)):
        net.progress(step=step, fraction=fraction)
        assert not any(torch.equal(*pair) for pair in untied_weights(net).values())
    net.progress(step=5, fraction=0.5)
    assert all(torch.equal(*pair) for pair in untied_weights(net).values()) and torch.equal(net(x), tied(x))
    with torch.no_grad():
        net.blocks[1].mlp.up.weight.add_(1.0)
    net.progress(step=6, fraction=0.6)
    net.progress()
    assert [key for key, pair in untied_weights(net).items() if not torch.equal(*pair)] == [("up", "1")]


def test_training_that_goes_on_after_the_start_of_the_recurrence_keeps_the_untied_weights():
    """A model as built, and one that is loaded, count as looping: the weights that come from a checkpoint are not overwritten."""
    net = random_model(config("untied_down"))
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    net.progress(step=7, fraction=0.7)
    assert all(torch.equal(weight, before[name]) for name, weight in net.named_parameters())


def test_own_feed_forward_part_of_a_repetition_gets_no_gradient_before_the_recurrence():
    net, (x, _) = random_model(config("untied_full")).train(), documents()
    net.progress(step=0, fraction=0.0)
    F.cross_entropy(net(x)[0], x[0].roll(-1)).backward()
    assert {name.split(".")[0] for name, weight in net.named_parameters() if weight.grad is None} == {"untied_mlp"}


AHEAD = {"multi_token_prediction": {"heads": 2, "weight": 0.3}}


def ahead_model(**changes):
    net = random_model(replace(PLAIN, features=AHEAD, logit_softcap=2.0, **changes))
    bare = GPT(replace(PLAIN, logit_softcap=2.0, **changes)).eval()
    bare.load_state_dict({name: weight for name, weight in net.state_dict().items() if not name.startswith("multi_token_prediction")})
    return net, bare


def nats(logits_TV, targets_T):
    return -np.mean([row[target] - np.log(np.exp(row).sum()) for row, target in zip(logits_TV, targets_T, strict=True)])


def test_prefixes_are_the_longest_proper_ones():
    """By trying every token. The byte piece of an a is no prefix, because a text gets the piece that is spelled a."""
    pieces = [b"", b"a", b" the", b"the", b"a", b" t", b"ab", b"abcd", b" ", b"x", b" the", b"\xe2", b"\xe2\x96\x81"]
    expected = []
    for piece in pieces:
        begins = [(len(other), i) for i, other in enumerate(pieces) if other and len(other) < len(piece) and piece.startswith(other)]
        expected.append(max(begins)[1] if begins else -1)
    assert prefixes.prefixes(pieces) == expected and expected[6:8] == [4, 6] and expected[2] == 5


@pytest.mark.parametrize("fraction, weight", [(0.0, 0.4), (0.33, 0.4), (0.5, 0.2), (0.67, 0.0), (1.0, 0.0)])
def test_prefix_of_the_next_token_is_a_second_target_in_the_first_two_thirds(fraction, weight):
    net, (x, _) = random_model(replace(PLAIN, features={"prefix_prediction": {"weight": 0.4}}, logit_softcap=2.0)), documents((11,))
    bare = GPT(replace(PLAIN, logit_softcap=2.0)).eval()
    bare.load_state_dict(net.state_dict())
    feature, table = net.features["prefix_prediction"], [token - 3 if token % 2 else -1 for token in range(PLAIN.vocabulary_size)]
    feature.vocabulary({"prefixes": table})
    net.progress(step=1, fraction=fraction)
    x, targets = x[:, :10], x[:, 1:11]
    logits, seconds = bare(x)[0].detach().double().numpy(), [table[token] for token in targets[0].tolist()]
    own = [nats(logits[t : t + 1], [second]) for t, second in enumerate(seconds) if second >= 0]
    assert 0 < len(own) < 10
    expected = nats(logits, targets[0].tolist()) + weight * sum(own) / 10
    assert loss_of(net)(x, targets).item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(net(x), bare(x)), "no logit changes"
    assert features.exported({}, net.config.to_dict())[1] == bare.config.to_dict()


def test_prefixes_that_are_missing_are_told_in_one_sentence():
    net = random_model(replace(PLAIN, features={"prefix_prediction": {"weight": 0.4}}))
    with pytest.raises(ValueError, match="made without the table of prefixes"):
        net.features["prefix_prediction"].vocabulary({})


@pytest.mark.parametrize("length, heads", [(10, 2), (2, 1), (1, 0)])
def test_extra_heads_add_their_mean_loss_as_far_as_the_row_goes(length, heads):
    (net, bare), (x, _) = ahead_model(), documents((11,))
    x, targets = x[:, :length], x[:, 1 : length + 1]
    hidden = net.hidden(x)[0].detach().double().numpy()
    own = []
    for ahead in range(1, heads + 1):
        table = net.features["multi_token_prediction"].heads[ahead - 1].weight.detach().double().numpy()
        own.append(nats(2 * np.tanh(hidden[: length - ahead] @ table.T / 2), targets[0, ahead:].tolist()))
    expected = nats(bare(x)[0].detach().double().numpy(), targets[0].tolist()) + (0.3 * np.mean(own) if own else 0)
    assert loss_of(net)(x, targets).item() == pytest.approx(expected, abs=1e-5)


def test_extra_heads_change_no_logit_and_start_at_zero():
    (net, bare), (x, cu_seqlens) = ahead_model(), documents()
    assert torch.equal(net(x), bare(x)) and torch.equal(net(x, cu_seqlens), bare(x, cu_seqlens))
    gpt.initialise(net, generator=torch.Generator().manual_seed(0))
    gpt.initialise(bare, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(weight, net.get_parameter(name)) for name, weight in bare.named_parameters())
    assert not any(head.weight.any() for head in net.features["multi_token_prediction"].heads)


def test_gradient_of_the_extra_loss_reaches_heads_and_trunk():
    (net, bare), (x, _) = ahead_model(), documents()
    loss_of(net)(x, x.roll(-1)).backward()
    loss_of(bare)(x, x.roll(-1)).backward()
    assert all(weight.grad.any() for weight in net.parameters())
    assert not torch.allclose(net.blocks[0].mlp.up.weight.grad, bare.blocks[0].mlp.up.weight.grad)


def test_loss_without_extra_heads_is_the_cross_entropy_to_the_bit():
    net, (x, cu_seqlens) = random_model(PLAIN), documents()
    expected = F.cross_entropy(net(x, cu_seqlens).flatten(0, 1), x.roll(-1).flatten())
    assert torch.equal(loss_of(net)(x, x.roll(-1), cu_seqlens), expected)


def test_extra_heads_do_not_leave_the_training():
    net, bare = ahead_model()
    state, values = features.exported({name: weight.detach() for name, weight in net.named_parameters()}, net.config.to_dict())
    assert values == bare.config.to_dict() and list(state) == [name for name, _ in bare.named_parameters()]
    dequantize.build(state, values)
    again = features.exported(state, values)
    assert again == (state, values) and list(again[0]) == list(state)


def test_extra_heads_read_a_factorised_table():
    net, (x, _) = random_model(replace(PLAIN, features=AHEAD | {"factorised_embedding": {"width": 6}})), documents()
    assert loss_of(net)(x, x.roll(-1)).isfinite() and net.features["multi_token_prediction"].heads[0].in_features == 6
