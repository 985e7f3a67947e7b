"""Lanes of the evaluator `memory` over the network `streaming`: one table of counts and one set of weights for all lanes.

The formulas are those of the evaluator (evaluators/memory.py), with three differences. All targets of a step are scored with the counts
from before the step. The weights learn after each step and not after `every` targets. The whole file is one document, also where a
lane begins. So its context of 0 tokens is the same in every lane, and has a row of counts of its own in place of an entry in the table.
"""

# L lanes, K contexts, E followers of all contexts, F = 1 + K parts of the mixture, V vocabulary

import numpy as np

from ...text.tokenizer import BOS
from .. import chain, counts, mixing
from ..counting import SIZES
from . import streaming


def suits(options: dict) -> bool:
    """Only over `streaming`, where no token of a file begins a document, and if no context is ever dropped."""
    return options["network"] == "streaming" and options.get("reset_at") in (None, BOS) and options.get("contexts") is None


class Lanes:
    def __init__(self, evaluator, lanes: int, first: int):
        self.network = streaming.Lanes(evaluator.network, lanes, first)
        self.order, self.document = evaluator.contexts.order, evaluator.contexts.document
        self.discount, self.strength, self.rate = evaluator.discount, evaluator.strength, evaluator.rate
        self.table, self.vectors = evaluator.state.table, evaluator.state.weights.vectors
        self.lengths = np.array([*range(1, self.order + 1), *range(self.document)])
        self.column = slice(self.order, self.order + bool(self.document))  # of the document's context of 0 tokens
        self.counts_V = np.zeros(len(self.vectors[1]) // 2)  # after it
        self.latest = np.full((lanes, 1), first)  # the last tokens of each lane, at most M

    def rows(self) -> np.ndarray:
        M, D, lanes = self.order, self.document, len(self.latest)
        self.network_LV = self.network.rows()
        self._look_up()
        seen_LK = self.total_LK > 0
        self.scale_LK = seen_LK / np.where(seen_LK, self.total_LK + self.strength, 1)
        self.left_LK = np.where(seen_LK, (self.strength + self.discount * self.kinds_LK) * self.scale_LK, 1)
        longest = (seen_LK[:, :M] * np.arange(1, M + 1)).max(1)
        size, kinds = (np.where(longest, array[np.arange(lanes), longest - 1], 0) for array in (self.total_LK, self.kinds_LK))
        kind = (longest * (len(SIZES) + 1) + np.searchsorted(SIZES, size, "right")) * 2 + (kinds == 1)
        self.classes = kind, self.latest[:, -1] * 2 + (longest > 3)
        w_LF = sum(vector[part] for vector, part in zip(self.vectors, self.classes, strict=True)) / len(self.vectors)

        times_L, factor_LK = w_LF[:, 0].copy(), w_LF[:, 1:].copy()  # of the network's row, and of each context's followers
        for n in range(M - 2, -1, -1):
            factor_LK[:, n] += self.left_LK[:, n + 1] * factor_LK[:, n + 1]
        times_L += self.left_LK[:, 0] * factor_LK[:, 0] + (self.left_LK[:, M:] * factor_LK[:, M:]).sum(1)
        factor_LK *= self.scale_LK
        p_LV = self.network_LV * times_L[:, None]
        if D:
            p_LV += factor_LK[:, self.column] * self.values_V
        np.add.at(p_LV.reshape(-1), self.row * p_LV.shape[1] + self.token, self.value * factor_LK.reshape(-1)[self.cell])
        return p_LV

    def push(self, tokens: np.ndarray) -> None:
        M, shape = self.order, self.total_LK.shape
        hits = np.flatnonzero(self.token == tokens[self.row])
        known_LK, own_LK = np.full(shape, -1), np.zeros(shape)  # where the targets lie in the pool, and their counts minus discount
        known_LK.reshape(-1)[self.cell[hits]], own_LK.reshape(-1)[self.cell[hits]] = self.place[hits], self.value[hits]
        own_LK[:, self.column] = self.values_V[tokens, None]
        known_LK[:, self.column] = np.where(self.counts_V[tokens, None] > 0, 0, -1)

        own_LK *= self.scale_LK
        p_LF = np.empty((len(tokens), 1 + shape[1]))
        p_LF[:, 0] = self.network_LV[np.arange(len(tokens)), tokens]
        for n in range(M):
            p_LF[:, n + 1] = own_LK[:, n] + self.left_LK[:, n] * p_LF[:, n]
        p_LF[:, M + 1 :] = own_LK[:, M:] + self.left_LK[:, M:] * p_LF[:, :1]
        for vector, part in zip(self.vectors, self.classes, strict=True):
            mixing.update(vector, p_LF, part, self.rate)

        longer_LK = np.concatenate([chain.longer(part) for part in np.split(known_LK >= 0, [M], axis=1)], 1)
        counted_LK = self.valid_K & ~longer_LK
        np.add.at(self.counts_V, tokens[counted_LK[:, self.column].any(1)], 1)
        counted_LK[:, self.column] = False
        lane, column = np.nonzero(counted_LK)
        self.table.add(self.keys_LK[lane, column], tokens[lane], known_LK[lane, column])
        self.latest = np.concatenate([self.latest[:, max(self.latest.shape[1] - M + 1, 0) :], tokens[:, None]], 1)
        self.network.push(tokens)

    def _look_up(self) -> None:
        """What was counted in the contexts of each lane: N and U (L, K), and of each follower its cell = lane K + context, its lane, its
        place in the pool, its token and its counts minus discount (E)."""
        M, lanes = self.order, len(self.latest)
        by_length = [np.stack([np.zeros(lanes, np.uint64), np.full(lanes, 1 << 63, np.uint64)])]  # of the tokens, and in the document
        for n in range(1, self.latest.shape[1] + 1):
            by_length.append(counts.mixed(by_length[-1], self.latest[:, -n]))
        self.valid_K = self.lengths < len(by_length)  # a lane has no tokens before its first
        self.keys_LK = np.stack([by_length[n % len(by_length)][int(i >= M)] for i, n in enumerate(self.lengths)], 1)
        wanted_LK = np.repeat(self.valid_K[None], lanes, 0)
        wanted_LK[:, self.column] = False
        contexts = np.where(wanted_LK.reshape(-1), self.table.find(self.keys_LK.reshape(-1)), -1)
        self.total_LK, self.kinds_LK = (sizes.reshape(lanes, -1) for sizes in self.table.sizes(contexts))
        self.total_LK[:, self.column], self.kinds_LK[:, self.column] = self.counts_V.sum(), np.count_nonzero(self.counts_V)
        self.values_V = np.maximum(self.counts_V - self.discount, 0)
        self.cell, self.place = self.table.followers(contexts)
        self.row = self.cell // len(self.lengths)
        self.token, self.value = self.table.token[self.place], self.table.count[self.place] - self.discount
