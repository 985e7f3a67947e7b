"""L3, documents packed end to end: a step is 8 spans of n + 1 consecutive tokens, n = batch_tokens / 8, and each span is one row.

A segment begins at each BOS and at the start of a row, and is cut every `longest_segment` tokens counted from its start, which
is `sequence_length` here. Attention stays
inside it. The loss includes the target across a document's end (the next BOS). Shards are read in order, each from its first BOS on. A rest
of a shard that is shorter than the 8 spans is dropped; after the last shard the first follows again.

Source: #1530, #1855. There each of W processes takes one span, and the eight spans are 8 / W micro-steps. Here a process with several spans
gets them as rows of one batch, and `cu_seqlens` counts over all of its rows.
"""

from dataclasses import replace

import numpy as np
import torch

from stages.lib.tokens import loader
from stages.lib.tokens.stream import Stream

BOS = 1  # as in runtime/text/tokenizer.py (a test compares); with an import, every change of the tokenizer's code would retrain
CHUNK = 1 << 16  # number of tokens that the search for the first BOS reads at a time


class Loader(loader.Loader):
    """Rows of n tokens. ValueError unless batch_tokens is a multiple of 8 and a shard holds the 8 spans after its first BOS."""

    def __init__(self, stream: Stream, *, sequence_length: int, batch_tokens: int, seed: int, section: str):
        super().__init__(stream, sequence_length=sequence_length, batch_tokens=batch_tokens, seed=seed, section=section)
        if batch_tokens % loader.SPANS:
            raise ValueError(
                f"{section}.loader packed reads {loader.SPANS} spans per step, {section}.batch_tokens is {batch_tokens}; set it "
                f"to a multiple of {loader.SPANS}"
            )
        self.num_rows, self.row_length = loader.SPANS, batch_tokens // loader.SPANS
        self.step_tokens = loader.SPANS * (self.row_length + 1)
        firsts = [_first_document(shard) for shard in stream.shards]
        steps = [(len(shard) - first) // self.step_tokens for shard, first in zip(stream.shards, firsts, strict=True)]
        self.first_tokens = np.array(stream.offsets[:-1]) + firsts
        self.last_steps = np.cumsum(steps)  # steps in each shard and all shards before it
        if not self.last_steps[-1]:
            raise self._too_short(self.step_tokens, "batch_tokens")

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> loader.Batch:
        plain = super().batch(step, rank=rank, world_size=world_size)
        return replace(
            plain, cu_seqlens=torch.from_numpy(segments(plain.inputs.numpy(), cut=self.longest_segment)), max_seqlen=self.longest_segment
        )

    def _starts(self, step: int) -> np.ndarray:
        number = step % self.last_steps[-1]
        shard = np.searchsorted(self.last_steps, number, side="right")
        within = number - (self.last_steps[shard - 1] if shard else 0)
        return self.first_tokens[shard] + within * self.step_tokens + np.arange(loader.SPANS) * (self.row_length + 1)


def segments(inputs_BT: np.ndarray, *, cut: int) -> np.ndarray:
    """cu_seqlens of the flattened rows, int32: segment starts in order, then B T (at least once) up to `padded` entries."""
    total = inputs_BT.size
    is_start_BT = inputs_BT == BOS
    is_start_BT[:, 0] = True
    starts = np.flatnonzero(is_start_BT)
    pieces = -(-np.diff(starts, append=total) // cut)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    cuts = np.repeat(starts, pieces) + cut * within
    return np.concatenate([cuts, np.full(loader.padded(len(cuts)) - len(cuts), total)]).astype(np.int32)


def _first_document(shard: np.ndarray) -> int:
    """Offset of the first BOS; the length of the shard where there is none."""
    for start in range(0, len(shard), CHUNK):
        found = np.flatnonzero(shard[start : start + CHUNK] == BOS)
        if len(found):
            return start + int(found[0])
    return len(shard)
