"""Interleaved range ANS: many coders side by side (lanes) that share one stream of 16-bit words.

    encode symbol with [start, start + freq) of 65536:   x <- (x // freq) 2^16 + x mod freq + start    before: a word out if x >= 2^22 freq
    decode:   slot = x mod 2^16;   x <- freq (x // 2^16) + slot - start                                after: a word in if x < 2^22

Every lane's state is in [2^22, 2^38) between steps. One step codes at most one symbol per lane, the first symbols of the step in the
first lanes. Invariants and their proofs: docs/range-coder.md. Source: Duda, arXiv:1311.2540; Giesen, arXiv:1402.3392.
"""

import numpy as np

from ...codecs import CodecError

BITS = 16
TOTAL = 1 << BITS  # frequencies of a distribution add up to this
LOW_BITS = 22
LOW = 1 << LOW_BITS  # the lowest state; with 2^16, states would be so coarse compared with the frequencies that 0.1 % would be lost
STATE_BYTES = 5


class Encoder:
    """Collects intervals; `finish` codes them in reverse order, because ANS decodes last in, first out."""

    def __init__(self, lanes: int):
        self.lanes, self.steps, self.escapes = lanes, [], []

    def put(self, start: np.ndarray, freq: np.ndarray) -> None:
        """Add one symbol per element, any number of them; 1 <= freq <= 65536."""
        packed = (start.astype(np.uint32) << BITS) | (freq - 1).astype(np.uint32)
        self.steps += [packed[i : i + self.lanes] for i in range(0, len(packed), self.lanes)]

    def mark(self) -> tuple[int, int]:
        return len(self.steps), len(self.escapes)

    def take_back(self, mark: tuple[int, int]) -> tuple[list, list]:
        """Remove and return what was added since `mark`, for `put_back`."""
        coded = self.steps[mark[0] :], self.escapes[mark[1] :]
        del self.steps[mark[0] :], self.escapes[mark[1] :]
        return coded

    def put_back(self, coded: tuple[list, list]) -> None:
        self.steps += coded[0]
        self.escapes += coded[1]

    def cost(self, mark: tuple[int, int]) -> float:
        """The cost in bits of what was added since `mark`."""
        bits = sum(BITS * len(step) - float(np.log2((step & (TOTAL - 1)) + 1.0).sum()) for step in self.steps[mark[0] :])
        return bits + 32.0 * sum(map(len, self.escapes[mark[1] :]))

    def finish(self) -> bytes:
        """The states, then the words in the order in which the decoder takes them."""
        states, words = np.full(self.lanes, LOW, np.uint64), []
        for step in reversed(self.steps):
            x = states[: len(step)]
            start, freq = (step >> BITS).astype(np.uint64), (step & (TOTAL - 1)).astype(np.uint64) + 1
            full = np.flatnonzero(x >= freq << LOW_BITS)
            words.append(x[full].astype(np.uint16))
            x[full] >>= BITS
            quotient = x // freq
            states[: len(step)] = (quotient << BITS) + (x - quotient * freq) + start
        ends = states.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :STATE_BYTES].tobytes()
        return ends + b"".join(word.astype("<u2").tobytes() for word in reversed(words))


class Decoder:
    """Reads what `Encoder.finish` made. CodecError if the words end early."""

    def __init__(self, data: bytes, lanes: int, escapes: np.ndarray):
        begin = STATE_BYTES * lanes
        if len(data) < begin or (len(data) - begin) % 2:
            raise CodecError("the coded matrices are cut short; the file is truncated, make it again")
        self.lanes, self.escapes = lanes, escapes
        states = np.zeros((lanes, 8), np.uint8)
        states[:, :STATE_BYTES] = np.frombuffer(data, np.uint8, begin).reshape(lanes, STATE_BYTES)
        self.states = states.view("<i8")[:, 0].astype(np.int64)
        self.words = np.frombuffer(data, "<u2", offset=begin).astype(np.int64)
        self.taken = self.escaped = 0
        if self.states.min() < LOW or self.states.max() >= LOW << BITS:
            raise CodecError("a state of the coded matrices is out of range; the file is damaged, make it again")

    def peek(self, count: int) -> np.ndarray:
        return self.states[:count] & (TOTAL - 1)

    def take(self, slot: np.ndarray, start: np.ndarray, freq: np.ndarray) -> None:
        """Advance by one step whose symbols have the intervals `start` and `freq`."""
        x = self.states[: len(slot)]
        x >>= BITS
        x *= freq
        x += slot - start
        low = (x < LOW).nonzero()[0]
        end = self.taken + len(low)
        if end > len(self.words):
            raise CodecError("the coded matrices end early; the file is truncated, make it again")
        x[low] = (x[low] << BITS) | self.words[self.taken : end]
        self.taken = end

    def escape(self, count: int) -> np.ndarray:
        """The next `count` values that were stored separately."""
        self.escaped += count
        if self.escaped > len(self.escapes):
            raise CodecError("the coded matrices have more outliers than are stored; the file is damaged, make it again")
        return self.escapes[self.escaped - count : self.escaped]

    def close(self) -> None:
        """CodecError unless everything was used and every lane is back where the encoder started."""
        if self.taken != len(self.words) or self.escaped != len(self.escapes) or (self.states != LOW).any():
            raise CodecError("the coded matrices do not end where they should; the file is damaged, make it again")


def uniform(stream, sizes: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    """Code values that are uniform in [0, size), 1 <= size <= 65536, or decode them if `values` is None.

    Value v has the interval [v 65536 // size, (v + 1) 65536 // size)."""
    if values is not None:
        start = (values << BITS) // sizes
        stream.put(start, ((values + 1) << BITS) // sizes - start)
        return values
    out = np.empty(len(sizes), np.int64)
    for i in range(0, len(sizes), stream.lanes):
        size = sizes[i : i + stream.lanes]
        slot = stream.peek(len(size))
        value = out[i : i + stream.lanes] = ((slot + 1) * size - 1) >> BITS
        start = (value << BITS) // size
        stream.take(slot, start, ((value + 1) << BITS) // size - start)
    return out
