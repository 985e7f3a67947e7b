"""Weights of a mixture of F predictors that learn online, by EM(η).

    p(a) = Σ_j w_j p_j(a),    w = the mean of several weight vectors, each chosen by a class of the target's context
    w_j <- w_j (1 - rate + rate p_j(x) / Σ_i w_i p_i(x)), then divided by the sum,    in each of the vectors by itself, after the target x

The update is a step towards the weights that are best for the mixture. Bayes' rule with a fixed share looks for the one best predictor
instead, and gains less here (docs/memory.md). Source: Helmbold, Schapire, Singer and Warmuth 1997, "A comparison of new and old algorithms
for a mixture estimation problem". Updates wait until `every` targets are scored, so that numpy has something to do at once.
"""

# R targets, F parts, V vocabulary

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROWS = 64  # rows that are normalized at a time, so that their float64 copies stay in the cache
LEAST = 1e-9  # so that a part that was useless for long can come back


@dataclass(frozen=True)
class Weights:
    """Weight vectors (classes, F) of each kind; and what they have not learned yet: p_j(x) (R, F) and the classes (R) of each kind."""

    vectors: tuple[np.ndarray, ...]
    late: tuple[np.ndarray, ...]

    @classmethod
    def equal(cls, parts: int, *classes: int) -> "Weights":
        """Equal weights for all parts, in kinds with so many classes."""
        return cls(
            tuple(np.full((n, parts), 1 / parts) for n in classes), (np.empty((0, parts)), *(np.empty(0, np.int64) for _ in classes))
        )

    def run(self, first: int, p_RF: np.ndarray, *classes: np.ndarray, rate: float, every: int) -> tuple[np.ndarray, "Weights"]:
        """The weights (R, F) of the targets from number `first` on, which got p_RF from the parts; and the weights after them."""
        w_RF, vectors, late, at = np.empty_like(p_RF), self.vectors, self.late, 0
        while at < len(p_RF):
            end = min(at + every - (first + at - 1) % every, len(p_RF))
            w_RF[at:end] = sum(vector[part[at:end]] for vector, part in zip(vectors, classes, strict=True)) / len(vectors)
            late = tuple(np.concatenate([old, new[at:end]]) for old, new in zip(late, (p_RF, *classes), strict=True))
            if (first + end - 1) % every == 0:
                if vectors is self.vectors:
                    vectors = tuple(vector.copy() for vector in vectors)
                for vector, part in zip(vectors, late[1:], strict=True):
                    update(vector, late[0], part, rate)
                late = tuple(array[:0] for array in late)
            at = end
        return w_RF, Weights(vectors, late)


def update(vectors: np.ndarray, p_RF: np.ndarray, classes: np.ndarray, rate: float) -> None:
    """Let one kind of weight vectors learn from targets of these classes."""
    p_RF = p_RF / (vectors[classes] * p_RF).sum(1, keepdims=True)
    np.multiply.at(vectors, classes, 1 - rate + rate * p_RF)
    touched = np.unique(classes)
    changed = np.maximum(vectors[touched], LEAST)
    vectors[touched] = changed / changed.sum(1, keepdims=True)


def normalized(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """ln p = z - logsumexp z (R, V), float64, and the sums (R, 1)."""
    logp_RV, totals = torch.empty(logits_RV.shape, dtype=torch.float64, device="cpu"), []
    for at in range(0, len(logp_RV), ROWS):
        part_RV = logits_RV[at : at + ROWS].double()
        totals.append(torch.logsumexp(part_RV, -1, keepdim=True))
        torch.sub(part_RV, totals[-1], out=logp_RV[at : at + ROWS])
    return logp_RV, torch.cat(totals)
