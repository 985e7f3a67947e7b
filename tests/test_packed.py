"""Packed documents: where segments begin, and a model that sees nothing outside of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.lib.tokens.loaders import packed
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT, initialise

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
LENGTHS = (5, 1, 9, 3, 6)
CU_SEQLENS = torch.tensor([0, *np.cumsum(LENGTHS), 24, 24], dtype=torch.int32)


def test_segments_begin_at_documents_and_rows_and_are_cut_from_their_own_start():
    x = np.full((2, 12), 5)
    x[0, 2] = x[0, 3] = x[1, 0] = x[1, 7] = packed.BOS
    out = packed.segments(x, cut=4)
    assert out.dtype == np.int32 and out.tolist() == [0, 2, 3, 7, 11, 12, 16, 19, 23] + [24] * 55
    assert packed.segments(np.full((1, 252), 5), cut=4).tolist() == [*range(0, 253, 4)]  # 63 segments and the end: 64 entries
    assert len(packed.segments(np.full((1, 256), 5), cut=4)) == 128


@pytest.fixture(scope="module")
def net():
    out, generator = GPT(CONFIG), torch.Generator().manual_seed(0)
    initialise(out, generator=generator)
    with torch.no_grad():  # zero-initialised projections would hide half of the network
        for weight in out.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return out


def packed_tokens():
    return torch.randint(0, 50, (1, 24), generator=torch.Generator().manual_seed(1))


def test_packed_documents_get_the_logits_that_they_get_alone(net):
    x = packed_tokens()
    alone = torch.cat([net(part) for part in x.split(LENGTHS, dim=1)], dim=1)
    assert torch.allclose(net(x, CU_SEQLENS), alone, atol=1e-5)
    two_rows = torch.tensor([0, 5, 6, 12, 15, 18, 24], dtype=torch.int32)  # the same tokens as rows of 12, cut there too
    alone = torch.cat([net(part) for part in x.split([5, 1, 6, 3, 3, 6], dim=1)], dim=1)
    assert torch.allclose(net(x.view(2, 12), two_rows).view(1, 24, 50), alone, atol=1e-5)
    assert not torch.allclose(net(x), net(x, CU_SEQLENS), atol=1e-3)


def test_a_changed_document_leaves_the_others_as_they_are_to_the_bit(net):
    x = packed_tokens()
    for start, end in zip(CU_SEQLENS[:5].tolist(), CU_SEQLENS[1:6].tolist(), strict=True):
        changed = x.clone()
        changed[0, start:end] = (changed[0, start:end] + 7) % 50
        before, after = net(x, CU_SEQLENS)[0], net(changed, CU_SEQLENS)[0]
        assert torch.equal(before[:start], after[:start]) and torch.equal(before[end:], after[end:])
        assert not torch.equal(before[start:end], after[start:end])


def test_row_t_of_a_packed_document_ignores_tokens_after_t_and_needs_those_before(net):
    x = packed_tokens()
    for t in range(7, 15):  # the third document is 6..14
        changed = x.clone()
        changed[0, t] = (changed[0, t] + 7) % 50
        before, after = net(x, CU_SEQLENS)[0], net(changed, CU_SEQLENS)[0]
        assert torch.equal(before[:t], after[:t]) and not torch.equal(before[14], after[14])


def test_gradients_of_packed_documents_are_those_of_each_alone(net):
    x = packed_tokens()

    def gradients(logits):
        net.zero_grad()
        F.cross_entropy(logits[0], x[0].roll(-1)).backward()
        return [weight.grad.clone() for weight in net.parameters()]

    alone = gradients(torch.cat([net(part) for part in x.split(LENGTHS, dim=1)], dim=1))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(net(x, CU_SEQLENS)), alone, strict=True))
