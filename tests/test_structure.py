"""Features that change which parameters there are: what is gone, what is kept out of the artifact, and how the rest goes on."""

import pytest
import torch
import torch.nn.functional as F

from stages.lib.quant import hessians
from stages.quantize.__main__ import Settings, quantize
from stages.runtime import dequantize
from stages.runtime.model import gpt
from stages.runtime.model.gpt import GPT
from tests.test_features import PLAIN, config
from tests.test_stacks import documents, random_model


def test_skipped_attention_has_no_parameters_and_the_other_layers_keep_theirs():
    names = dict(GPT(config("skip_attention")).named_parameters())
    gone = {name for name in dict(GPT(PLAIN).named_parameters()) if name not in names}
    assert gone == {f"blocks.{layer}.{part}" for layer in (0, 2) for part in (
        "attention_scale", "attention.query_gain", *(f"attention.{matrix}.weight" for matrix in ("query", "key", "value", "output")))}


@pytest.mark.parametrize("case, tied", [("factorised", True), ("factorised", False), ("skip_attention", True),
                                        ("untied_full", True), ("untied_down", True)])
def test_network_that_is_built_differently_is_quantized_and_comes_back(case, tied):
    net, (x, _) = random_model(config(case, tied_head=tied)), documents((30,))
    grams = hessians.collect(net, iter([x]), total=1)
    state = {name: weight.detach() for name, weight in net.named_parameters()}
    stored, errors = quantize(state, grams, Settings(matrix_bits=8, matrix_clip_sigmas=4.0, embedding_bits=8, embedding_clip_sigmas=4.0,
                                                     damping=0.1, block=16, sort_columns=True))
    assert set(errors) == set(gpt.matrices(net)) | {"embedding"} | ({"unembedding"} if not tied else set())
    back = dequantize.build(dequantize.weights({name: tensor.numpy() for name, tensor in stored.items()}), net.config.to_dict())
    assert F.cosine_similarity(back(x).flatten(), net(x).flatten(), dim=0) > 0.99


def untied_weights(net):
    return {(part, layer): (own.weight, getattr(net.blocks[int(layer)].mlp, part).weight)
            for part in ("up", "down") for layer, own in getattr(net.features["untied_mlp"], part).items()}


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
