"""The token shards of a split as one long array that stays on disk.

Offset t counts from the first token of the first shard. A slice inside one shard is a view of the memory map. Only a slice across shard
boundaries is copied.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike


class Stream:
    """uint16 tokens of `shards`, one after the other. The errors of `check` name `name` (a folder) and `vocabulary_size`.

    offsets: the first offset of each shard, and the total length last. `np.asarray(stream)` is the whole stream as one array.
    """

    def __init__(self, shards: Sequence[np.ndarray], *, name: str, vocabulary_size: int):
        self.shards = [np.asarray(shard) for shard in shards]  # plain views, because slicing an np.memmap object is ten times slower
        self.name, self.vocabulary_size = name, vocabulary_size
        self.offsets = [0, *np.cumsum([len(shard) for shard in self.shards]).tolist()]

    def __len__(self) -> int:
        return self.offsets[-1]

    def __getitem__(self, index: int | slice) -> np.ndarray | np.uint16:
        if not isinstance(index, slice):
            at = index + len(self) if index < 0 else index
            if not 0 <= at < len(self):
                raise IndexError(f"token {index} of {len(self)} in {self.name}")
            return self[at : at + 1][0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"a token stream is sliced with a step of 1, not {step}")
        parts = [
            shard[max(start - first, 0) : stop - first]
            for shard, first in zip(self.shards, self.offsets, strict=False)
            if first < stop and start < first + len(shard)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, np.uint16)])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and len(self.shards) > 1:
            raise ValueError(f"{self.name} has {len(self.shards)} shards; one array of them is a copy")
        return np.array(self[:], dtype, copy=copy)

    def read(self, start: int, out: np.ndarray) -> None:
        """Write the tokens from offset `start` on into the vector `out`, of any integer type. After the last token the first follows."""
        number, done = bisect_right(self.offsets, start) - 1, 0
        while done < len(out):
            within = start + done - self.offsets[number]
            part = self.shards[number][within : within + len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)
            if done < len(out):
                number += 1
                if number == len(self.shards):
                    number, start = 0, start - len(self)

    def check(self, tokens: np.ndarray) -> None:
        """ValueError unless every id is in the vocabulary, because the embedding has no row for others."""
        if tokens.size and (largest := int(tokens.max())) >= self.vocabulary_size:
            raise ValueError(
                f"{self.name} holds token {largest}, its vocabulary has {self.vocabulary_size}; the shards are of another "
                "tokenizer, run: dvc repro tokenize"
            )
