"""What followed each context so far: a hash table from the 64 bits of a context to the tokens that came after it, in arrays of numpy.

A context has N counts after it, of U different tokens. Its followers lie side by side in a pool, in the order in which they came first, in
a block of 2^ceil(log2 U) places; a context that outgrows its block moves to a new one at the end. All work is on many contexts at once.
"""

import copy

import numpy as np
import torch

ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing, Knuth, The Art of Computer Programming 6.4
SHIFT = np.uint64(32)


def mixed(keys: np.ndarray, more) -> np.ndarray:
    """Hashes (uint64) of the pairs of `keys` and `more`."""
    keys = (keys + np.asarray(more).astype(np.uint64) + np.uint64(1)) * ODD
    keys ^= keys >> SHIFT
    keys *= ODD
    return keys ^ (keys >> SHIFT)


def spread(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For runs of `sizes` elements: the number of the run, and the place in it, of each element."""
    runs = np.repeat(np.arange(len(sizes)), sizes)
    return runs, np.arange(len(runs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def ordered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys (64 bits) in order, as signed numbers, and where each stood; equal ones stay in theirs. For millions of keys, torch sorts
    three times as fast as numpy."""
    keys, order = torch.sort(torch.from_numpy(keys.view(np.int64)), stable=True)
    return keys.numpy(), order.numpy()


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each distinct key: where it stands first, and how often it is there."""
    keys, order = ordered(keys)
    starts, repeats = _runs(keys)
    return order[starts], repeats


def block(kinds: np.ndarray) -> np.ndarray:
    """Places that contexts with so many different followers occupy in the pool: 0, or the next power of 2."""
    return np.where(kinds > 0, 1 << np.frexp(kinds - 1)[1].astype(np.int64), 0)


class Counts:
    """`limit`: `prune` drops contexts if there are more (None: never)."""

    def __init__(self, limit: int | None = None):
        self.limit, self.length, self.end = limit, 0, 0
        self.keys = np.zeros(1 << 10, np.uint64)
        self.start = np.zeros(1 << 10, np.int64)  # of the context's block in the pool
        self.total, self.kinds, self.met = (np.zeros(1 << 10, np.int32) for _ in range(3))  # N, U, and the target that met it last
        self.token, self.count = (np.zeros(1 << 10, np.int32) for _ in range(2))  # the pool
        self.slots = np.full(1 << 12, -1, np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of the contexts with these keys; -1 for one that was never counted."""
        found, open_, slot = np.full(len(keys), -1, np.int64), np.arange(len(keys)), self._slot(keys)
        while len(open_):
            number = self.slots[slot].astype(np.int64)
            right = (number >= 0) & (self.keys[number] == keys[open_])
            found[open_[right]] = number[right]
            onward = (number >= 0) & ~right
            open_, slot = open_[onward], (slot[onward] + 1) & (len(self.slots) - 1)
        return found

    def sizes(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """N and U of each context; 0 for -1."""
        known = contexts >= 0
        return np.where(known, self.total[contexts], 0), np.where(known, self.kinds[contexts], 0)

    def followers(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of `contexts`, place in the pool) of every follower of each context; -1 has none."""
        which, rank = spread(self.sizes(contexts)[1])
        return which, self.start[contexts[which]] + rank

    def add(self, keys: np.ndarray, tokens: np.ndarray, place: np.ndarray) -> None:
        """Count each token once after the context of its key; `place` is where it lies in the pool, -1 if it is new to that context."""
        contexts = self._numbers(keys)
        np.add.at(self.total, contexts, np.int32(1))
        np.add.at(self.count, place[place >= 0], np.int32(1))
        fresh = np.flatnonzero(place < 0)
        first, repeats = distinct(mixed(keys[fresh], tokens[fresh]))
        first, order = ordered(first)
        fresh, repeats = fresh[first], repeats[order]
        order, owners, added = _together(contexts[fresh])
        fresh, repeats = fresh[order], repeats[order]
        place = np.repeat(self._room(owners, added), added) + spread(added)[1]
        self.token[place], self.count[place] = tokens[fresh], repeats
        self.kinds[owners] += added.astype(np.int32)

    def meet(self, contexts: np.ndarray, targets: np.ndarray) -> None:
        """Note the targets (in rising order) that met these contexts."""
        known = contexts >= 0
        self.met[contexts[known]] = targets[known]

    def pruned(self) -> "Counts":
        """This table, or one without the contexts that were met longest ago, if there are more than `limit`: at most half of it stay.

        A suffix of a context is met whenever the context is, so it stays at least as long: counts of shorter contexts are never missing.
        """
        if self.limit is None or self.length <= self.limit:
            return self
        met = self.met[: self.length]
        kept = np.flatnonzero(met > np.partition(met, self.length - self.limit // 2 - 1)[self.length - self.limit // 2 - 1])
        small = Counts(self.limit)
        which, places = self.followers(kept)
        numbers = small._numbers(self.keys[kept])
        target = small._room(numbers, self.kinds[kept])[which] + places - self.start[kept[which]]
        small.token[target], small.count[target] = self.token[places], self.count[places]
        for name in ("total", "kinds", "met"):
            getattr(small, name)[numbers] = getattr(self, name)[kept]
        return small

    def copy(self) -> "Counts":
        return copy.deepcopy(self)

    def _slot(self, keys: np.ndarray) -> np.ndarray:
        return ((keys * ODD) >> np.uint64(65 - len(self.slots).bit_length())).astype(np.int64)

    def _numbers(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of these keys; new ones are entered in the order in which they come."""
        numbers = self.find(keys)
        absent = np.flatnonzero(numbers < 0)
        if len(absent):
            first, _ = distinct(keys[absent])
            new = keys[absent[np.sort(first)]]
            begin, self.length = self.length, self.length + len(new)
            for name in ("keys", "start", "total", "kinds", "met"):
                setattr(self, name, _grown(getattr(self, name), self.length))
            self.keys[begin : self.length] = new
            if 2 * self.length > len(self.slots):
                self.slots, begin = np.full(1 << (2 * self.length).bit_length(), -1, np.int32), 0
            self._enter(np.arange(begin, self.length))
            numbers[absent] = self.find(keys[absent])
        return numbers

    def _enter(self, numbers: np.ndarray) -> None:
        """Give each number a free slot. Of those that want the same one, the first gets it."""
        slot = self._slot(self.keys[numbers])
        while len(numbers):
            free = np.flatnonzero(self.slots[slot] < 0)[::-1]
            self.slots[slot[free]] = numbers[free]
            left = self.slots[slot] != numbers
            numbers, slot = numbers[left], (slot[left] + 1) & (len(self.slots) - 1)

    def _room(self, contexts: np.ndarray, added: np.ndarray) -> np.ndarray:
        """The first free place of each of these (different) contexts, after those that need a larger block have moved."""
        kinds = self.kinds[contexts].astype(np.int64)
        size = block(kinds + added)
        moves = size > block(kinds)
        moving, size = contexts[moves], size[moves]
        which, old = self.followers(moving)
        begin = self.end + np.cumsum(size) - size
        self.end += int(size.sum())
        self.token, self.count = _grown(self.token, self.end), _grown(self.count, self.end)
        new = begin[which] + old - self.start[moving[which]]
        self.token[new], self.count[new] = self.token[old], self.count[old]
        self.start[moving] = begin
        return self.start[contexts] + kinds


def _together(contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order that puts equal contexts side by side, else as they came; the different contexts in that order, and how often each came."""
    size = max(1, len(contexts))
    order = np.sort(contexts * size + np.arange(len(contexts))) % size  # a stable sort, and faster
    starts, repeats = _runs(contexts[order])
    return order, contexts[order[starts]], repeats


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal elements begins, and how long it is."""
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]]))
    return starts, np.diff(np.append(starts, len(ordered)))


def _grown(array: np.ndarray, length: int) -> np.ndarray:
    """The array, with room for `length` elements; half as many again if it has to grow."""
    if length <= len(array):
        return array
    grown = np.zeros(max(length, len(array) * 3 // 2), array.dtype)
    grown[: len(array)] = array
    return grown
