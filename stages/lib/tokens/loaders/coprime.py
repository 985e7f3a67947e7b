"""L1, strides through several shards at once: the rows of a batch come from distant places, and no permutation is held in memory.

A shard is entered with a random phase (at most T - 1), which leaves it c windows, a random first window and a random stride g with gcd(g,
c) = 1. Its j-th window is then number (first + j g) mod c, and after c windows it is entered again. For one batch of G = batch_tokens / T
windows, with p = min(batches so far / 1800, 1):

    weight of a shard   (windows left in it)^(0.9 - 0.4 p)
    number of shards    m = round(low + p (high - low)),  low = min(8, S, G),  high = min(64, S, G),  S shards
    windows of a shard  1 + its share of a multinomial draw of G - m

The windows are then dealt in rounds: one of each shard that has any left, in a random order of the shards.

Source: #1060, #1218, #1285, with the draws in the same order. There are two differences. The generator is keyed by `seed` and not by the
shards' paths. The whole global batch is one draw with the constants of eight processes, where the published code draws per micro-step, so
that p rises faster with fewer processes.
"""

import math
from collections.abc import Iterator

import numpy as np

from stages.lib.tokens import loader
from stages.lib.tokens.stream import Stream

RAMP_BATCHES = 1800  # number of batches until p = 1 (#1060)
EXPONENT_START, EXPONENT_END = 0.9, 0.5  # exponent of the windows left (#1060)
SHARDS_START, SHARDS_END = 8, 64  # per batch: max(8, W) and max(32, 8 W) at W = 8 (#1060)
FRESH = {"phase": 0, "windows": 0, "first": 0, "stride": 1, "used": 0}  # state of a shard that was not entered yet


class Loader(loader.Loader):
    """The position is the generator and one cursor per shard. ValueError if no shard has room for a row."""

    def __init__(self, stream: Stream, *, sequence_length: int, batch_tokens: int, seed: int, section: str):
        super().__init__(stream, sequence_length=sequence_length, batch_tokens=batch_tokens, seed=seed, section=section)
        self.windows = loader.windows_of(stream, sequence_length)
        self.usable = np.flatnonzero(self.windows)
        if not len(self.usable):
            raise self._too_short(sequence_length + 1, "sequence_length")
        self._restart()

    def position(self) -> dict:
        return {"batches": self.batches, "generator": self.generator.bit_generator.state, "cursors": [dict(c) for c in self.cursors]}

    def go_to(self, position: dict) -> None:
        self.batches, self.cursors, self.drawn = position["batches"], [dict(c) for c in position["cursors"]], None
        self.generator.bit_generator.state = position["generator"]

    def _restart(self) -> None:
        self.batches, self.cursors = 0, [dict(FRESH) for _ in self.windows]
        self.generator = np.random.Generator(np.random.PCG64(self.seed))
        self.drawn: np.ndarray | None = None  # the last batch is kept, because other ranks ask for it again

    def _starts(self, step: int) -> np.ndarray:
        if step < self.batches - (self.drawn is not None):
            self._restart()
        while self.batches <= step:
            self.drawn = self._draw()
            self.batches += 1
        return self.drawn

    def _draw(self) -> np.ndarray:
        """The next global batch. The order of the draws is the published one: do not change it."""
        progress = min(self.batches / RAMP_BATCHES, 1.0)
        left = np.array([self._left(shard) for shard in self.usable], np.float64)
        weights = left ** (EXPONENT_START + progress * (EXPONENT_END - EXPONENT_START))
        probabilities = weights / weights.sum()
        low, high = (min(bound, len(self.usable), self.num_rows) for bound in (SHARDS_START, SHARDS_END))
        chosen = self.generator.choice(len(self.usable), round(low + progress * (high - low)), replace=False, p=probabilities)
        counts = np.ones(len(chosen), np.int64)
        if self.num_rows > len(chosen):
            shares = probabilities[chosen]
            counts += self.generator.multinomial(self.num_rows - len(chosen), shares / shares.sum())
        order = self.generator.permutation(len(chosen))
        buckets = [self._take(int(shard), int(count)) for shard, count in zip(self.usable[chosen[order]], counts[order], strict=True)]
        return np.fromiter(self._deal(buckets), np.int64, self.num_rows)

    def _left(self, shard: int) -> int:
        """Windows left in a shard: all of them before it is entered, and 1 if it must be entered again."""
        cursor = self.cursors[shard]
        return max(cursor["windows"] - cursor["used"], 1) if cursor["windows"] else self.windows[shard]

    def _deal(self, buckets: list[list[int]]) -> Iterator[int]:
        """One window of every bucket per round, from its end; the order of one round is where the next permutation starts."""
        while buckets:
            buckets = [buckets[i] for i in self.generator.permutation(len(buckets))]
            for bucket in buckets:
                yield bucket.pop()
            buckets = [bucket for bucket in buckets if bucket]

    def _take(self, shard: int, count: int) -> list[int]:
        """Stream offsets of the next `count` windows of a shard, shuffled."""
        cursor, parts = self.cursors[shard], []
        while count:
            if cursor["used"] == cursor["windows"]:
                self._enter(shard)
            taken = min(count, cursor["windows"] - cursor["used"])
            visited = cursor["first"] + cursor["stride"] * np.arange(cursor["used"], cursor["used"] + taken)
            parts.append(cursor["phase"] + visited % cursor["windows"] * self.sequence_length)
            cursor["used"] += taken
            count -= taken
        starts = self.stream.offsets[shard] + np.concatenate(parts)
        return (starts[self.generator.permutation(len(starts))] if len(starts) > 1 else starts).tolist()

    def _enter(self, shard: int) -> None:
        num_tokens = len(self.stream.shards[shard])
        phase = self._below(loader.largest_phase(num_tokens, self.sequence_length) + 1)
        windows = (num_tokens - 1 - phase) // self.sequence_length
        first, stride = self._below(windows), 1
        if windows > 1:
            stride = int(self.generator.integers(1, windows))
            while math.gcd(stride, windows) > 1:
                stride = int(self.generator.integers(1, windows))
        self.cursors[shard].update(phase=phase, windows=windows, first=first, stride=stride, used=0)

    def _below(self, bound: int) -> int:
        """A uniform draw from 0 .. bound - 1; nothing is drawn where there is no choice."""
        return int(self.generator.integers(bound)) if bound > 1 else 0
