"""L2, every window once per epoch, in random order. This is the default.

An epoch draws a phase for each shard (uniform, at most T - 1), cuts the shard from there on into windows of T tokens and one extra target,
and puts the windows of all shards in one random order. Row i of the training is window i of this endless sequence.

In the published code (#1394, #1493) each row picks a shard in proportion to its unused windows and takes one of them at random. That is a
uniform draw from all unused windows, so one permutation is equivalent. There are two differences. There, process r had its own shards and
the seed r; here, the batch is the same for every number of processes. A shard here gives floor((N - 1 - largest phase) / T) windows for
every phase, so all epochs are equally long; there, some phases give one more window per shard.
"""

import numpy as np

from stages.lib.tokens import loader
from stages.lib.tokens.stream import Stream


class Loader(loader.Loader):
    """`windows_per_epoch` is the number of rows until the text repeats. ValueError if no shard has room for a row."""

    def __init__(self, stream: Stream, *, sequence_length: int, batch_tokens: int, seed: int, section: str):
        super().__init__(stream, sequence_length=sequence_length, batch_tokens=batch_tokens, seed=seed, section=section)
        usable = np.flatnonzero(loader.windows_of(stream, sequence_length))
        lengths = [len(stream.shards[shard]) for shard in usable]
        self.largest_phases = [loader.largest_phase(length, sequence_length) for length in lengths]
        self.windows = np.array(
            [(length - 1 - phase) // sequence_length for length, phase in zip(lengths, self.largest_phases, strict=True)], np.int64
        )
        self.first_tokens = np.array(stream.offsets)[usable]
        self.windows_per_epoch = int(self.windows.sum())
        if self.windows_per_epoch < 1:
            raise self._too_short(sequence_length + 1, "sequence_length")
        self.epoch, self.order = -1, np.empty(0, np.int64)

    def _starts(self, step: int) -> np.ndarray:
        rows, parts = np.arange(step * self.num_rows, (step + 1) * self.num_rows), []
        for epoch in range(rows[0] // self.windows_per_epoch, rows[-1] // self.windows_per_epoch + 1):
            first = epoch * self.windows_per_epoch
            parts.append(self._order(epoch)[max(rows[0] - first, 0) : rows[-1] + 1 - first])
        return np.concatenate(parts)

    def _order(self, epoch: int) -> np.ndarray:
        """Stream offsets of all windows of an epoch, in their order."""
        if epoch != self.epoch:
            generator = np.random.default_rng([self.seed, epoch])
            phases = [int(generator.integers(largest + 1)) for largest in self.largest_phases]
            within = np.arange(self.windows_per_epoch) - np.repeat(np.cumsum(self.windows) - self.windows, self.windows)
            starts = np.repeat(self.first_tokens + phases, self.windows) + within * self.sequence_length
            self.epoch, self.order = epoch, starts[generator.permutation(self.windows_per_epoch)]
        return self.order
