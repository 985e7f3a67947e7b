"""Mix the model with an n-gram predictor that is built from the tokens already scored.

    p_0(a) = (c(a) + 1) / (N + V)                                         counts of all tokens so far
    p_n(a) = (c_n(a) + u_n p_{n-1}(a)) / (N_n + u_n)                       after a context of n tokens that was seen before;
                                                                          u_n: how many different tokens followed it (Witten-Bell)
    p(a) = (1 - w) p_model(a) + w p_m(a)                                  m: the longest context of at most `order` that was seen
    w <- (1 - share) w p_m(x) / p(x) + share w_0                          after each token x; one w for each m, at first `weight`

Every row is a distribution over the whole vocabulary; counts and weights depend on earlier tokens only. Source of the estimate:
Witten and Bell 1991; of the weights: Bayes, with the fixed share of Herbster and Warmuth 1998.
"""

import numpy as np
import torch
from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and order (tokens of the longest context), weight (initial weight of the n-grams), share."""

    carries = True

    def __init__(self, model, *, order: int, weight: float, share: float, **windowing):
        super().__init__(model, **windowing)
        adaptation.require("order", order, int, 1, 64)
        adaptation.require("weight", weight, (int, float), 1e-6, 1 - 1e-6)
        adaptation.require("share", share, (int, float), 0, 1)
        self.order, self.initial, self.share = order, weight, share
        self.weights = np.full(order + 1, float(weight))
        self.counts = np.ones(0 if model is None else model.config.vocabulary_size)  # each count is one more than was seen
        self.followers: dict[tuple[int, ...], dict[int, int]] = {}
        self.logp_RV: np.ndarray | None = None
        self.pending: tuple[Tensor, list, np.ndarray] = (torch.zeros(0), [], self.weights)

    @torch.no_grad()
    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        self.logp_RV = torch.log_softmax(super().predict(seen, chunk).double(), -1).cpu().numpy()
        weights, journal = self.weights.copy(), []
        rows = self._run(seen, chunk, journal)
        self.pending = seen[chunk[0].first : chunk[-1].last + 1].clone(), journal, self.weights
        self.weights = weights
        for table, token in reversed(journal):  # the counts of the chunk's own targets are removed until `learn`
            table[token] -= 1
            if isinstance(table, dict) and not table[token]:
                del table[token]
        return torch.from_numpy(np.log(rows)).to(seen.device)

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Restore the counts that `predict` removed; count anew if `predict` ran with other targets, as in token-by-token scoring."""
        targets, journal, weights = self.pending
        if not torch.equal(targets, seen[chunk[0].first : chunk[-1].last + 1]):
            self._run(seen, chunk, [])
            return
        for table, token in journal:
            table[token] = (table.get(token, 0) if isinstance(table, dict) else table[token]) + 1
        self.weights = weights

    def _run(self, seen: Tensor, chunk: list[windows.Window], journal: list) -> np.ndarray:
        """p of the chunk's rows (R, V), each before its target is counted; every increased count is appended to `journal`."""
        start = max(chunk[0].first - self.order, 0)
        tokens, rows = seen[start : chunk[-1].last + 1].tolist(), np.exp(self.logp_RV)
        for row, target in zip(rows, range(chunk[0].first - start, len(tokens)), strict=True):
            contexts = [tuple(tokens[target - n : target]) for n in range(1, min(self.order, target) + 1)]
            ngram, longest = self._ngram(contexts)
            weight = self.weights[longest]
            row *= 1 - weight
            row += weight * ngram
            token = tokens[target]
            self.weights[longest] = (1 - self.share) * weight * ngram[token] / row[token] + self.share * self.initial
            for table in (self.counts, *(self.followers.setdefault(context, {}) for context in contexts)):
                table[token] = (table.get(token, 0) if isinstance(table, dict) else table[token]) + 1
                journal.append((table, token))
        return rows

    def _ngram(self, contexts: list[tuple[int, ...]]) -> tuple[np.ndarray, int]:
        """The distribution (V) after the longest known context, and its length."""
        p, longest = self.counts / self.counts.sum(), 0
        for n, context in enumerate(contexts, 1):
            if not (found := self.followers.get(context)):
                break
            followers, counts = np.fromiter(found, np.int64), np.fromiter(found.values(), np.float64)
            p *= len(followers) / (counts.sum() + len(followers))
            p[followers] += counts / (counts.sum() + len(followers))
            longest = n
        return p, longest
