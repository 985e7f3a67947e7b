"""What the evaluator `memory` knows before a target, and how it goes on: counts of what followed each context, and weights of the mixture.

Targets are counted in their order. Some that are known may wait for those that follow, because to count several at once costs little more
than one. Every target's probabilities come from the counts of all before it.
"""

# R targets, F parts of the mixture, V vocabulary

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import chain, counts, mixing

SIZES = 2 ** np.arange(1, 9)  # classes of N
PERIOD = 1 << 14  # targets after which contexts may be dropped


@dataclass(frozen=True)
class State:
    """What is known before a target: the counts, where its document began, and the weights."""

    table: counts.Counts
    begun: int
    weights: mixing.Weights


class Counting:
    """`counted` is the last target that was counted, and `held_R` are the network's probabilities of the known ones after it. `pending` is
    what was learned of the targets that were looked at last: their tokens, the state after them, and what it still has to count."""

    def __init__(self, contexts: chain.Contexts, state: State, *, discount: float, strength: float, rate: float, every: int):
        self.contexts, self.state = contexts, state
        self.discount, self.strength, self.rate, self.every = discount, strength, rate, every
        self.counted, self.held_R = 0, np.empty(0)
        self.pending: tuple = (torch.zeros(0), state, None)

    def _count(self, seen: Tensor, end: int, p_R: np.ndarray) -> None:
        """Count all targets before number `end` that are not counted yet, to which the network gives the last ones of `p_R`."""
        first = self.counted + 1
        if first < end:
            self._run(seen, first, end, p_R[first - end :], None)
            self._commit(end)

    def _commit(self, end: int) -> None:
        _, self.state, lacking = self.pending
        chain.count(self.state.table, *lacking)
        self.counted, self.held_R = end - 1, np.empty(0)
        if self.counted % PERIOD == 0:
            self.state = replace(self.state, table=self.state.table.pruned())

    def _run(self, seen: Tensor, first: int, end: int, p_R: np.ndarray, logp_RV: np.ndarray | None) -> None:
        """Change the network's rows, if they are wanted, into those of the mixture. `pending` becomes the state after these targets, and
        what it still has to count."""
        state, tokens, begin = self.state, seen.cpu().numpy(), first
        while True:
            last = end - 1 if state.table.limit is None else min(-(-begin // PERIOD) * PERIOD, end - 1)
            part = slice(begin - first, last + 1 - first)
            state, lacking = self._part(state, tokens, begin, last, p_R[part], None if logp_RV is None else logp_RV[part])
            if last == end - 1:
                self.pending = seen[first:end].clone(), state, (lacking, begin)
                return
            table = state.table.copy()
            chain.count(table, lacking, begin)
            state, begin = replace(state, table=table.pruned()), last + 1

    def _part(
        self, state: State, tokens: np.ndarray, first: int, last: int, p_R: np.ndarray, logp_RV: np.ndarray | None
    ) -> tuple[State, chain.Chunk]:
        """The same for the targets first..last, to which the network gives the probabilities p_R."""
        targets, before, n = tokens[first : last + 1], tokens[first - 1 : last], self.contexts.order
        keys, valid, begun = self.contexts.keys(tokens, first, last, state.begun)
        found = self.contexts.chunk(state.table, targets, keys, valid, self.discount)
        estimates = chain.Estimates(found, n, self.discount, self.strength, targets, p_R)
        longest = (estimates.seen_RK[:, :n] * np.arange(1, n + 1)).max(1)
        size, kinds = (np.where(longest, array[np.arange(len(targets)), longest - 1], 0) for array in (found.total, found.kinds))
        kind = (longest * (len(SIZES) + 1) + np.searchsorted(SIZES, size, "right")) * 2 + (kinds == 1)
        w_RF, weights = state.weights.run(first, estimates.p_RF, kind, before * 2 + (longest > 3), rate=self.rate, every=self.every)
        if logp_RV is not None:
            estimates.mix(w_RF, logp_RV)
        return State(state.table, begun, weights), found
