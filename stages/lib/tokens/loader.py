"""The base of every loader. A loader is a rule for the first token of each row of a step; the rows are copied into one int64 array.

The global batch of a step is the same for every number of processes W; rank r takes rows r, r+W, ... of it. Earlier reads change nothing:
`batch(step)` always gives the same result.
"""

# B rows of one rank, T time

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stages.lib.tokens.stream import Stream

PADDING = 64  # smallest number of entries of cu_seqlens (#1530)
SPANS = 8  # spans of text per global step: processes times accumulation steps of every published run


@dataclass(frozen=True)
class Batch:
    """inputs, targets: int64 (B, T); targets[b, t] is the token after inputs[b, t].

    cu_seqlens: int32 (S+1,), the first token of each segment in the flattened B T inputs, then B T until the end. Attention stays inside a
    segment. None if each row is one segment. max_seqlen: an upper limit on the tokens of a segment.
    """

    inputs: Tensor
    targets: Tensor
    cu_seqlens: Tensor | None
    max_seqlen: int

    def parts(self, tokens: int) -> list["Batch"]:
        """The same rows as batches of `tokens` tokens each, packed or not. `tokens` must be whole rows and divide the batch."""
        if tokens == self.inputs.numel():
            return [self]
        rows, out = tokens // self.inputs.size(1), []
        for first in range(0, len(self.inputs), rows):
            cu_seqlens = self.cu_seqlens
            if cu_seqlens is not None:
                low, high = first * self.inputs.size(1), (first + rows) * self.inputs.size(1)
                own = cu_seqlens[(cu_seqlens >= low) & (cu_seqlens < high)] - low
                cu_seqlens = torch.nn.functional.pad(own, (0, padded(len(own)) - len(own)), value=tokens)
            out.append(Batch(self.inputs[first : first + rows], self.targets[first : first + rows], cu_seqlens, self.max_seqlen))
        return out

    def evenly_cut(self, doublings: int) -> "Batch":
        """The same rows in the fewest possible segments, of `max_seqlen` tokens each, and a cu_seqlens that is padded as that of up to
        2^doublings times as many segments would be: with it a shape can be compiled before the text has it."""
        (rows, length), device = self.inputs.shape, self.inputs.device
        row_starts = torch.arange(0, length, self.max_seqlen, dtype=torch.int32, device=device)
        starts = (row_starts + length * torch.arange(rows, dtype=torch.int32, device=device)[:, None]).flatten()
        entries = padded(len(starts)) << doublings
        return replace(self, cu_seqlens=torch.nn.functional.pad(starts, (0, entries - len(starts)), value=rows * length))

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`. From pinned memory the copy is asynchronous."""
        inputs, targets, cu_seqlens = (
            None if tensor is None else tensor.to(device, non_blocking=True) for tensor in (self.inputs, self.targets, self.cu_seqlens)
        )
        return replace(self, inputs=inputs, targets=targets, cu_seqlens=cu_seqlens)


class Loader:
    """Batches of `batch_tokens` tokens from `stream`. Errors name `section` of params.yaml.

    A subclass sets `num_rows` and `row_length` (their product is `batch_tokens`) and defines `_starts`. ValueError for impossible sizes.
    The loader progressive also changes `longest_segment`, at the shares of the budget in `changes`.
    """

    changes: tuple[float, ...] = ()

    def __init__(self, stream: Stream, *, sequence_length: int, batch_tokens: int, seed: int, section: str):
        if sequence_length < 1 or batch_tokens % sequence_length or batch_tokens < sequence_length:
            raise ValueError(f"{section}: {batch_tokens} tokens per batch must be a positive multiple of sequence_length {sequence_length}")
        if seed < 0:
            raise ValueError(f"{section}.seed is {seed}; it takes 0 or more")
        self.stream, self.sequence_length, self.batch_tokens = stream, sequence_length, batch_tokens
        self.seed, self.section, self.longest_segment = seed, section, sequence_length
        self.num_rows, self.row_length = batch_tokens // sequence_length, sequence_length

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """The rows of one rank for one step. ValueError for a token outside the vocabulary, or if the rows do not divide evenly."""
        self.check_processes(world_size)
        starts = self._starts(step)[rank::world_size].tolist()
        spans = np.empty((len(starts), self.row_length + 1), np.int64)
        for span, start in zip(spans, starts, strict=True):
            self.stream.read(start, span)
        self.stream.check(spans)
        spans_BT = torch.from_numpy(spans)
        return Batch(spans_BT[:, :-1], spans_BT[:, 1:], None, self.row_length)

    def check_processes(self, world_size: int) -> None:
        """ValueError unless the rows of a batch divide evenly over the processes."""
        if self.num_rows % world_size:
            raise ValueError(
                f"{self.num_rows} rows per batch do not divide over {world_size} processes; set {self.section}.processes to a "
                f"divisor of {self.num_rows}"
            )

    def check_parts(self, tokens: int | None, world_size: int) -> None:
        """ValueError unless a process's share of a batch divides into parts of `tokens` tokens (None: one part)."""
        share = self.batch_tokens // world_size
        if tokens is not None and (tokens < 1 or share % tokens or tokens % self.row_length):
            raise ValueError(
                f"{self.section}.micro_batch_tokens is {tokens}; set it to whole rows of {self.row_length} tokens that divide "
                f"the {share} tokens of a process's share of a batch, or to null"
            )

    def set_context(self, stages: tuple[tuple[float, ...], ...], warmup_steps: int) -> None:
        """ValueError if there are stages: only the loader progressive has them."""
        if stages:
            raise ValueError(f"{self.section}.context is for the loader progressive; set it to [], or {self.section}.loader to progressive")

    def longest_at(self, fraction: float) -> int:
        """Tokens of the longest segment at this share of the budget."""
        return self.longest_segment

    def progress(self, step: int, fraction: float) -> float:
        """Change what a step at this share of the budget changes. Returns a multiplier of its learning rates."""
        return 1.0

    def position(self) -> dict:
        """The state that a checkpoint must hold beside the step, JSON-able. It is empty if `_starts` is a formula in the step."""
        return {}

    def go_to(self, position: dict) -> None:
        """Return to the state that `position` gave."""

    def _starts(self, step: int) -> np.ndarray:
        """Stream offset of the first token of each row of the global batch, int64 (num_rows,)."""
        raise NotImplementedError

    def _too_short(self, needed: int, leaf: str) -> ValueError:
        longest = max((len(shard) for shard in self.stream.shards), default=0)
        return ValueError(
            f"the split has {len(self.stream)} tokens, {longest} in its longest shard, too few: {needed} are needed; give "
            f"more text or set a smaller {self.section}.{leaf}"
        )


def padded(segments: int) -> int:
    """Entries of a cu_seqlens of so many segments and their end: 64, 128, 256, ..., so that few shapes are compiled. Empty segments cost
    nothing. #1530 and #1855 take multiples of 64."""
    return max(PADDING, 1 << segments.bit_length())


def windows_of(stream: Stream, sequence_length: int) -> np.ndarray:
    """The number of rows that fit into each shard at phase 0: floor((N - 1) / T), because the last target is a token too."""
    return np.array([max(len(shard) - 1, 0) // sequence_length for shard in stream.shards], np.int64)


def largest_phase(num_tokens: int, sequence_length: int) -> int:
    """The largest offset of a shard's first row, below T, after which a whole row still fits."""
    return min(sequence_length - 1, num_tokens - sequence_length - 1)
