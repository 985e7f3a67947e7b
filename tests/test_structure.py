"""Features that change which parameters there are: what is gone, what is kept out of the artifact, and how the rest goes on."""

import pytest
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


@pytest.mark.parametrize("case, tied", [("factorised", True), ("factorised", False), ("skip_attention", True)])
def test_network_that_is_built_differently_is_quantized_and_comes_back(case, tied):
    net, (x, _) = random_model(config(case, tied_head=tied)), documents((30,))
    grams = hessians.collect(net, iter([x]), total=1)
    state = {name: weight.detach() for name, weight in net.named_parameters()}
    stored, errors = quantize(state, grams, Settings(matrix_bits=8, matrix_clip_sigmas=4.0, embedding_bits=8, embedding_clip_sigmas=4.0,
                                                     damping=0.1, block=16, sort_columns=True))
    assert set(errors) == set(gpt.matrices(net)) | {"embedding"} | ({"unembedding"} if not tied else set())
    back = dequantize.build(dequantize.weights({name: tensor.numpy() for name, tensor in stored.items()}), net.config.to_dict())
    assert F.cosine_similarity(back(x).flatten(), net(x).flatten(), dim=0) > 0.99
