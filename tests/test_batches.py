"""What is made of a loader's batches: read ahead, and computed in parts."""

import json

import pytest
import torch

from stages.lib.node.launch import World
from stages.train.prefetch import Prefetcher
from tests.test_loaders import BATCH, KINDS, T, loader


@KINDS
def test_batches_that_are_read_ahead_are_the_same_and_so_is_the_state_at_every_step(kind):
    world = World(0, 1, torch.device("cpu"))
    plain, ahead = (Prefetcher(loader(kind), world, part_tokens=None, is_ahead=is_ahead) for is_ahead in (False, True))
    states = []
    for step in range(6):
        (one,), (other,) = plain.parts(step), ahead.parts(step)
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)
        assert json.dumps(plain.position()) == json.dumps(ahead.position())
        states.append(json.loads(json.dumps(ahead.position())))
    ahead.go_to(states[2])
    plain.go_to(states[2])
    assert torch.equal(ahead.parts(3)[0].inputs, plain.parts(3)[0].inputs) and json.dumps(plain.position()) == json.dumps(ahead.position())


@KINDS
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_parts_of_a_batch_are_its_rows_in_order_with_their_own_segments(kind, parts):
    whole = loader(kind).batch(3)
    found = whole.parts(BATCH // parts)
    assert len(found) == parts and torch.equal(torch.cat([part.inputs for part in found]), whole.inputs)
    assert torch.equal(torch.cat([part.targets for part in found]), whole.targets)
    for i, part in enumerate(found):
        if whole.cu_seqlens is None:
            assert part.cu_seqlens is None
            continue
        low = i * BATCH // parts
        own = [start - low for start in whole.cu_seqlens.tolist() if low <= start < low + BATCH // parts]
        assert part.cu_seqlens.dtype == torch.int32 and len(part.cu_seqlens) % 64 == 0
        assert part.cu_seqlens.tolist() == own + [BATCH // parts] * (len(part.cu_seqlens) - len(own)) and own[0] == 0


def test_parts_that_are_no_whole_rows_or_do_not_divide_are_refused():
    plain = loader("shuffled")
    plain.check_parts(None, 1)
    plain.check_parts(2 * T, 2)
    for size, processes in ((T + 1, 1), (3 * T, 1), (BATCH, 2), (0, 1)):
        with pytest.raises(ValueError, match=r"train\.micro_batch_tokens is"):
            plain.check_parts(size, processes)
