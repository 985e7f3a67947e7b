"""Training batches as a pure function of the step: resuming needs no state, and every world size sees the same batches."""

# B sequences of one rank, T time

import numpy as np
import torch
from torch import Tensor


class Batches:
    """Non-overlapping windows of `sequence_length` + 1 tokens, in a new random order and phase each epoch.

    A global batch of step s is the windows s·G .. s·G+G-1 of that endless order, G = batch_tokens / sequence_length;
    rank r of W takes the windows r, r+W, ... of it.
    """

    def __init__(self, tokens: np.ndarray, *, sequence_length: int, batch_tokens: int, seed: int, section: str):
        if sequence_length < 1 or batch_tokens % sequence_length or batch_tokens < sequence_length:
            raise ValueError(f"{section}: {batch_tokens} tokens per batch must be a positive multiple of sequence_length {sequence_length}")
        self.tokens, self.length, self.seed = tokens, sequence_length, seed
        self.num_rows = batch_tokens // sequence_length
        self.windows_per_epoch = (len(tokens) - sequence_length - 1) // sequence_length
        if self.windows_per_epoch < 1:
            raise ValueError(f"the split has {len(tokens)} tokens, too few for sequences of {sequence_length}; "
                             f"give more text or set a smaller {section}.sequence_length")
        self.epoch, self.order, self.phase = -1, np.empty(0, np.int64), 0

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) int64 of one rank for one step, B = rows / world_size."""
        self.check_processes(world_size)
        spans = np.stack([self._window(step * self.num_rows + row) for row in range(rank, self.num_rows, world_size)])
        spans_BT = torch.from_numpy(spans.astype(np.int64))
        return spans_BT[:, :-1], spans_BT[:, 1:]

    def check_processes(self, world_size: int) -> None:
        """ValueError unless the sequences of a batch divide evenly over the processes."""
        if self.num_rows % world_size:
            raise ValueError(f"{self.num_rows} sequences per batch do not divide over {world_size} processes; change train.processes "
                             "or train.batch_tokens")

    def _window(self, index: int) -> np.ndarray:
        epoch, position = divmod(index, self.windows_per_epoch)
        if epoch != self.epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self.epoch = epoch
            self.phase = int(generator.integers(self.length))
            self.order = generator.permutation(self.windows_per_epoch)
        start = self.phase + int(self.order[position]) * self.length
        return self.tokens[start: start + self.length + 1]
