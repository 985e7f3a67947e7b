"""Remember what followed each context so far: the network's row, corrected by a chain of Pitman-Yor estimates with the network at its root.

With N counts after a context of n tokens, U different ones, k of the token a, discount d and strength s:

    p_n(a) = (max(k - d, 0) + (s + d U) p_{n-1}(a)) / (N + s)     if the context was seen, else p_{n-1}(a);  p_0 = p_network;  n = 1..order
    q_n(a) = (max(k - d, 0) + (s + d U) p_network(a)) / (N + s)   counted in the same document only;  n = 0..document-1 tokens
    p(a) = Σ_n w_n p_n(a) + Σ_n v_n q_n(a)                        the mean of two weight vectors: one per (longest context seen, size of its N,
                                                                  U = 1), one per (last token, longest context above 3)
    w_n <- w_n (1 - rate + rate p_n(x) / Σ w p(x))                after the token x, in each of the two vectors; divided by their sum

Counts follow after each target (chain.py), weights after each `every` targets. All p_n are a multiple of the network's row plus a few
followers, so a row is too, and every row is a distribution over the whole vocabulary. Sources: estimate, Teh 2006 and Wood et al. 2009;
exclusion, Cleary and Witten 1984; weights, EM(η) of Helmbold, Schapire, Singer and Warmuth 1997. docs/memory.md has what it gains.
"""

# R rows, V vocabulary, K contexts, F parts of the mixture: network, chain, document

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation, chain, counts
from . import sliding, streaming

CLAIMS = ("causal", "score_first", "single_pass")
STREAM = {"block": 1}  # for the network `streaming`
SIZES = 2 ** np.arange(1, 9)  # classes of N
PERIOD = 1 << 14  # targets after which contexts may be dropped


@dataclass(frozen=True)
class State:
    """What is known before a target: counts, where its document began, the weights of both kinds, and what they do not know yet."""

    table: counts.Counts
    begun: int
    weights: tuple[np.ndarray, np.ndarray]
    late: tuple[np.ndarray, ...]  # p(x) of every part (R, F), and the two classes (R)


class Evaluator:
    """The network's rows come from `network` sliding (window, stride, batch) or streaming (window, block). `reset_at`: the token that starts a
    document, None if there is none; `contexts`: how many are remembered, None for all."""

    carries = True

    def __init__(
        self,
        model,
        *,
        network: str,
        window: int,
        stride: int | None = None,
        batch: int | None = None,
        block: int | None = None,
        order: int = 6,
        document: int = 3,
        reset_at: int | None = 1,
        discount: float = 0.8,
        strength: float = -0.5,
        rate: float = 0.1,
        every: int = 32,
        contexts: int | None = None,
    ):
        adaptation.choose("network", network, ("sliding", "streaming"))
        for name, value, low, high in (("order", order, 1, 64), ("document", document, 0, 64), ("every", every, 1, PERIOD)):
            adaptation.require(name, value, int, low, high)
        adaptation.require("discount", discount, (int, float), 1e-6, 1 - 1e-6)
        adaptation.require("strength", strength, (int, float), 1e-6 - discount)
        adaptation.require("rate", rate, (int, float), 0, 1 - 1e-6)
        for name, value, low in (("reset_at", reset_at, 0), ("contexts", contexts, 2)):
            if value is not None:
                adaptation.require(name, value, int, low)
        if network == "sliding":
            self.network = sliding.Evaluator(model, window=window, stride=stride, batch=batch)
        else:
            self.network = streaming.Evaluator(model, window=window, block=block)
        self.contexts = chain.Contexts(order, document, reset_at)
        self.order, self.discount, self.strength, self.rate, self.every = order, discount, strength, rate, every
        vocabulary, parts = 0 if model is None else model.config.vocabulary_size, 1 + order + document
        weights = tuple(np.full((n, parts), 1 / parts) for n in ((order + 1) * (len(SIZES) + 1) * 2, vocabulary * 2))
        self.state = State(counts.Counts(contexts), 0, weights, (np.empty((0, parts)), np.empty(0, np.int64), np.empty(0, np.int64)))
        self.logp_RV, self.pending = torch.zeros(0), (torch.zeros(0), self.state, None)

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        return self.network.chunks(num_targets)

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        self.logp_RV = torch.log_softmax(self.network.predict(seen, chunk).double(), -1).cpu()
        return self._run(seen, chunk)

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Keep what `predict` learned of the chunk; learn it anew if `predict` ran with other targets, as in token-by-token scoring."""
        self.network.learn(seen, chunk)
        if not torch.equal(self.pending[0], seen[chunk[0].first : chunk[-1].last + 1]):
            self._run(seen, chunk)
        _, self.state, lacking = self.pending
        chain.count(self.state.table, *lacking)
        if chunk[-1].last % PERIOD == 0:
            self.state = replace(self.state, table=self.state.table.pruned())

    def _run(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        """ln p (R, V) of the chunk's targets. `pending` is the state after them, and the counts that it still lacks."""
        first, end, state, logp_RV = chunk[0].first, chunk[-1].last + 1, self.state, self.logp_RV.clone()
        tokens, begin = seen.cpu().numpy(), first
        while True:
            last = end - 1 if state.table.limit is None else min(-(-begin // PERIOD) * PERIOD, end - 1)
            state, lacking = self._part(state, tokens, begin, last, logp_RV[begin - first : last + 1 - first].numpy())
            if last == end - 1:
                self.pending = seen[first:end].clone(), state, (lacking, begin)
                return logp_RV
            table = state.table.copy()
            chain.count(table, lacking, begin)
            state, begin = replace(state, table=table.pruned()), last + 1

    def _part(self, state: State, tokens: np.ndarray, first: int, last: int, logp_RV: np.ndarray) -> tuple[State, chain.Chunk]:
        """Change the network's rows of the targets first..last into those of the mixture."""
        targets, M = tokens[first : last + 1], self.order
        keys, valid, begun = self.contexts.keys(tokens, first, last, state.begun)
        found = self.contexts.chunk(state.table, targets, keys, valid, self.discount)
        seen_RK, rows = found.total > 0, np.arange(len(targets))
        scale_RK = seen_RK / np.where(seen_RK, found.total + self.strength, 1)
        left_RK = np.where(seen_RK, (self.strength + self.discount * found.kinds) * scale_RK, 1)  # the share of the shorter context
        row = found.cell // keys.shape[1]
        own = found.token == targets[row]
        own_RK = np.bincount(found.cell[own], found.value[own], minlength=keys.size).reshape(keys.shape) * scale_RK
        p_RF = np.empty((len(targets), 1 + keys.shape[1]))
        p_RF[:, 0] = np.exp(logp_RV[rows, targets])
        for n in range(M):
            p_RF[:, n + 1] = own_RK[:, n] + left_RK[:, n] * p_RF[:, n]
        p_RF[:, M + 1 :] = own_RK[:, M:] + left_RK[:, M:] * p_RF[:, :1]

        longest = (seen_RK[:, :M] * np.arange(1, M + 1)).max(1)
        size, kinds = (np.where(longest, array[rows, longest - 1], 0) for array in (found.total, found.kinds))
        shape = (longest * (len(SIZES) + 1) + np.searchsorted(SIZES, size, "right")) * 2 + (kinds == 1)
        w_RF, weights, late = self._weigh(state, first, p_RF, shape, tokens[first - 1 : last] * 2 + (longest > 3))

        times_R, factor_RK = w_RF[:, 0].copy(), w_RF[:, 1:].copy()  # of the network's row, and of the followers of each context
        for n in range(M - 2, -1, -1):
            factor_RK[:, n] += left_RK[:, n + 1] * factor_RK[:, n + 1]
        times_R += left_RK[:, 0] * factor_RK[:, 0] + (left_RK[:, M:] * factor_RK[:, M:]).sum(1)
        V = logp_RV.shape[1]
        added = np.bincount(row * V + found.token, found.value * (factor_RK * scale_RK).ravel()[found.cell], minlength=logp_RV.size)
        changed = np.flatnonzero(added)
        p = np.exp(logp_RV.ravel()[changed]) * times_R[changed // V] + added[changed]
        logp_RV += np.log(times_R)[:, None]
        logp_RV.ravel()[changed] = np.log(p)
        return State(state.table, begun, weights, late), found

    def _weigh(self, state: State, first: int, p_RF: np.ndarray, *classes: np.ndarray) -> tuple[np.ndarray, tuple, tuple]:
        """The weights (R, F) of every row; both kinds of weights after the last row, and what they do not know yet."""
        w_RF, weights, late, at = np.empty_like(p_RF), state.weights, state.late, 0
        while at < len(p_RF):
            end = min(at + self.every - (first + at - 1) % self.every, len(p_RF))
            w_RF[at:end] = sum(w[part[at:end]] for w, part in zip(weights, classes, strict=True)) / 2
            late = tuple(np.concatenate([old, new[at:end]]) for old, new in zip(late, (p_RF, *classes), strict=True))
            if (first + end - 1) % self.every == 0:
                if weights is state.weights:
                    weights = tuple(w.copy() for w in weights)
                for w, part in zip(weights, late[1:], strict=True):
                    self._update(w, late[0], part)
                late = tuple(array[:0] for array in late)
            at = end
        return w_RF, weights, late

    def _update(self, weights: np.ndarray, p_RF: np.ndarray, classes: np.ndarray) -> None:
        """Change the weights of the rows' classes after the rows' targets."""
        p_RF = p_RF / (weights[classes] * p_RF).sum(1, keepdims=True)
        np.multiply.at(weights, classes, 1 - self.rate + self.rate * p_RF)
        touched = np.unique(classes)
        changed = np.maximum(weights[touched], 1e-9)  # so that a part that was useless for long can come back
        weights[touched] = changed / changed.sum(1, keepdims=True)
