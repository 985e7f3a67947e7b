"""A small language model that has seen only the train tokens that it is given, so it cannot know val.

Trigrams, interpolated with the weights of Witten and Bell (1991), down to the uniform distribution:

    p_k(w | h) = (c(h w) + u(h) p_{k-1}(w | h')) / (c(h) + u(h))          c count, u number of different w after h, h' without its first

It predicts worse than a network, but the same texts are easy or hard for it. stages/audit/checks/memorization.py uses it for that.
"""

import numpy as np

ORDER = 3


class Trigram:
    """Counts of the token stream `train` (ids below `vocabulary`, at most 2^20 so that three fit in an int64)."""

    def __init__(self, train: np.ndarray, vocabulary: int):
        if vocabulary > 2**20:
            raise ValueError(f"a trigram's key holds ids below {2**20}, the vocabulary has {vocabulary}")
        self.vocabulary = vocabulary
        stream = np.asarray(train, np.int64)
        self.tables = []
        for length in range(1, ORDER + 1):
            keys, counts = np.unique(self._keys(stream, length), return_counts=True)
            histories, first = np.unique(keys // vocabulary, return_index=True)
            totals = np.add.reduceat(counts, first)
            self.tables.append((keys, counts, histories, totals, np.diff(np.append(first, len(keys)))))

    def nats(self, stream: np.ndarray) -> np.ndarray:
        """-ln p of each token from the second on, float64 (N - 1,)."""
        stream = np.asarray(stream, np.int64)
        p = np.full(len(stream) - 1, 1 / self.vocabulary)
        for length, (keys, counts, histories, totals, kinds) in enumerate(self.tables, 1):
            start = max(length - 1, 1)  # the first target that has enough tokens before it
            found = self._keys(stream, length)[start - length + 1 :]
            count, total, kind = (
                _at(keys, counts, found),
                _at(histories, totals, found // self.vocabulary),
                _at(histories, kinds, found // self.vocabulary),
            )
            part = p[start - 1 :]
            p[start - 1 :] = np.where(total > 0, (count + kind * part) / np.maximum(total + kind, 1), part)
        return -np.log(p)

    def _keys(self, stream: np.ndarray, length: int) -> np.ndarray:
        """Each run of `length` tokens as one number, by its last token."""
        keys = np.zeros(max(len(stream) - length + 1, 0), np.int64)
        for back in range(length - 1, -1, -1):
            keys = keys * self.vocabulary + stream[length - 1 - back : len(stream) - back]
        return keys


def _at(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of sorted `keys` at `wanted`, 0 where a key is not there."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
