"""How much of one token stream occurs verbatim in another, found by hashes of runs of 64 tokens.

    S_n = sum over j < n of t_j B^j  mod 2^64                 prefix sums, B odd and so invertible
    H_i = (S_{i+L} - S_i) B^-i = sum over k < L of t_{i+k} B^k    equal for equal runs at any position

The runs of the first text are cut from the start of each document, without overlap, and looked up at every position of the other text.
Runs have 64 tokens because shorter ones (licences, signatures of functions) occur in most pairs of documents of one kind.
A wrong match has probability (runs × positions) / 2^64.
"""

from collections.abc import Iterable

import numpy as np

LENGTH = 64
BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
BLOCK = 1 << 22  # positions that are hashed at a time
SIEVE = 1 << 24


def of(stream: np.ndarray) -> np.ndarray:
    """H_i for every run of LENGTH tokens, uint64 (N - LENGTH + 1,); empty if the stream is shorter."""
    tokens = np.asarray(stream).astype(np.uint64) + np.uint64(1)  # plus 1, so that id 0 changes the hash too
    if len(tokens) < LENGTH:
        return np.empty(0, np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is intended
        powers = np.cumprod(np.r_[np.uint64(1), np.full(len(tokens) - 1, BASE)], dtype=np.uint64)
        inverse = np.uint64(pow(int(BASE), -1, 2**64))
        back = np.cumprod(np.r_[np.uint64(1), np.full(len(tokens) - LENGTH, inverse)], dtype=np.uint64)
        sums = np.r_[np.uint64(0), np.cumsum(tokens * powers, dtype=np.uint64)]
        found = (sums[LENGTH:] - sums[:-LENGTH]) * back
        return found ^ (found >> np.uint64(32))


def of_documents(stream: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the runs cut from the start of each document without overlap, and for each run the index of its document. A document
    shorter than one run has none."""
    ends = np.append(starts[1:], len(stream))
    hashes, documents, first = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    while first < len(starts):  # some documents at a time, so that memory does not grow with the split
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + BLOCK, side="right")))
        every = of(stream[starts[first] : ends[last - 1]])
        for number in range(first, last):
            places = np.arange(starts[number], ends[number] - LENGTH + 1, LENGTH) - starts[first]
            hashes.append(every[places])
            documents.append(np.full(len(places), number))
        first = last
    return np.concatenate(hashes), np.concatenate(documents)


def present(wanted: np.ndarray, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Which of the hashes `wanted` occur anywhere in the streams `parts` (read in blocks; no run crosses from one part to the next)."""
    keys, back = np.unique(wanted, return_inverse=True)
    found, sieve = np.zeros(len(keys), bool), np.zeros(SIEVE, bool)
    sieve[keys & np.uint64(SIEVE - 1)] = True  # a quick test, so that only a few positions need the binary search
    for part in parts if len(keys) else ():
        for start in range(0, max(len(part) - LENGTH + 1, 0), BLOCK):
            hashes = of(part[start : start + BLOCK + LENGTH - 1])
            hashes = hashes[sieve[hashes & np.uint64(SIEVE - 1)]]
            at = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
            found[at[keys[at] == hashes]] = True
    return found[back]
