"""A split of many shards reads as one array, and only what crosses the end of a shard is copied."""

import numpy as np
import pytest

from stages.lib.tokens.stream import Stream


@pytest.mark.parametrize("span", [(0, 5), (3, 5), (2, 8), (4, 14), (0, 14), (-3, None), (9, 3), (5, 5), (0, 99)])
def test_slice_of_a_stream_is_the_slice_of_all_its_tokens(span):
    source = Stream(np.split(np.arange(14, dtype=np.uint16), [5, 5, 9]), name="x", vocabulary_size=99)
    assert len(source) == 14 and source[slice(*span)].tolist() == list(range(14))[slice(*span)]
    assert np.asarray(source).tolist() == list(range(14)) and np.asarray(source, np.int64).dtype == np.int64
    assert [int(source[at]) for at in (0, 4, 5, 13, -1)] == [0, 4, 5, 13, 13]


def test_slice_inside_a_shard_is_a_view_and_only_one_across_its_end_is_copied():
    source = Stream([np.zeros(100, np.uint16), np.ones(100, np.uint16)], name="x", vocabulary_size=2)
    assert np.shares_memory(source[10:100], source.shards[0]) and not np.shares_memory(source[10:101], source.shards[0])
    with pytest.raises(IndexError):
        source[200]
    with pytest.raises(ValueError, match="step of 1"):
        source[::2]
    with pytest.raises(ValueError, match="is a copy"):
        np.asarray(source, copy=False)


@pytest.mark.parametrize("start, length", [(0, 14), (3, 4), (12, 5), (13, 40)])
def test_reading_goes_on_into_the_next_shard_and_after_the_last_into_the_first(start, length):
    source = Stream(np.split(np.arange(14, dtype=np.uint16), [5, 5, 9]), name="x", vocabulary_size=99)
    out = np.empty(length, np.int64)
    source.read(start, out)
    assert out.tolist() == [(start + i) % 14 for i in range(length)]
