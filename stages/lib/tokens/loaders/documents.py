"""Every row once per epoch, with the documents in another order in each epoch.

Epoch 0 has the documents in the order of the text; epoch e permutes the order of epoch e - 1. The documents of an epoch follow each
other and are cut into rows of T + 1 tokens, which share no token, so one target in T + 1 is lost; the rest that fills no row is dropped.
Then the rows are permuted. A row can thus hold the end of one document and the begin of any other, another in each epoch.

Source: slowrun, 2026 (3.211 to 3.204 over 11 epochs of 100 M tokens); there the rows' seed is 1000 + e and the documents' seed e. What
comes before the first BOS of the text counts as a document. The order of an epoch is in memory: eight bytes per document and per row.
"""

import numpy as np
import torch

from stages.lib.tokens import loader
from stages.lib.tokens.loaders.packed import BOS, CHUNK
from stages.lib.tokens.stream import Stream


class Loader(loader.Loader):
    """ValueError if the text is shorter than a row."""

    def __init__(self, stream: Stream, *, sequence_length: int, batch_tokens: int, seed: int, section: str):
        super().__init__(stream, sequence_length=sequence_length, batch_tokens=batch_tokens, seed=seed, section=section)
        self.rows_per_epoch = len(stream) // (sequence_length + 1)
        if not self.rows_per_epoch:
            raise self._too_short(sequence_length + 1, "sequence_length")
        found = [start + np.flatnonzero(stream[start : start + CHUNK] == BOS) for start in range(0, len(stream), CHUNK)]
        self.first_tokens = np.union1d(np.concatenate(found), [0]).astype(np.int64)
        self.lengths = np.diff(self.first_tokens, append=len(stream))
        self.epoch = -1

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> loader.Batch:
        self.check_processes(world_size)
        numbers = np.arange(step * self.num_rows, (step + 1) * self.num_rows)[rank::world_size]
        spans_BT = np.stack([self._row(*divmod(int(number), self.rows_per_epoch)) for number in numbers])
        self.stream.check(spans_BT)
        spans = torch.from_numpy(spans_BT)
        return loader.Batch(spans[:, :-1], spans[:, 1:], None, self.row_length)

    def _row(self, epoch: int, number: int) -> np.ndarray:
        """The T + 1 tokens of one row, int64."""
        self._go_to_epoch(epoch)
        out, done = np.empty(self.sequence_length + 1, np.int64), 0
        start = int(self.rows[number]) * len(out)
        place = int(np.searchsorted(self.ends, start, side="right"))
        while done < len(out):
            document = self.order[place]
            within = start + done - (self.ends[place] - self.lengths[document])
            part = min(self.lengths[document] - within, len(out) - done)
            first = self.first_tokens[document] + within
            out[done : done + part] = self.stream[int(first) : int(first + part)]
            done, place = done + part, place + 1
        return out

    def _go_to_epoch(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        self.order = np.arange(len(self.lengths))
        for number in range(1, epoch + 1):
            self.order = self.order[np.random.default_rng([self.seed, 0, number]).permutation(len(self.order))]
        self.ends = np.cumsum(self.lengths[self.order])
        self.rows, self.epoch = np.random.default_rng([self.seed, 1, epoch]).permutation(self.rows_per_epoch), epoch
