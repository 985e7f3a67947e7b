"""The embedding and an untied head start as the best bigram model of their width, from counts of the train text.

    p(v|t) = (c(t, v) + k_t p(v)) / (c(t) + k_t),   k_t = smoothing (1 + number of different successors of t)        Witten and Bell, 1991
    M = log p, each row less its mean;   diag(w) M ≈ U S V' of rank D - 1,  w_t² the share of t;   L = diag(1/w) U sqrt(S),  R = V sqrt(S)

Every row of L is cut to the 98th percentile of the lengths and filled up to it by one more channel, so the norm before the head leaves
the logits as they are. Both are turned by one random rotation, which spreads that channel over all:

    embedding = std sqrt(D) / length L Q,   unembedding = length / sqrt(D) R Q

As the blocks start at 0, the first logits are M up to what rank D - 1 misses. Rank and SVD come from RANK_SPARE more random columns and
PASSES subspace iterations. The time that this takes counts as training. Source: ours (docs/log.md, 2026-11-30).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.lib.node.params import AtLeastOne, Positive, require
from stages.train import techniques

RANK_SPARE, PASSES, LONGEST = 16, 6, 0.98
LARGEST = 16384  # tokens of a vocabulary whose square of float32 is a gigabyte


@dataclass(frozen=True)
class Options:
    tokens: AtLeastOne  # of the train text that are counted, from its start
    smoothing: Positive
    std: Positive  # of the embedding


class Technique(techniques.Technique):
    def __init__(self, options: Options, model, settings, world):
        super().__init__(options, model, settings, world)
        config = model.config
        fits = config.width <= config.vocabulary_size <= LARGEST
        require(
            fits and not config.tied_head and "factorised_embedding" not in config.features,
            f"train.techniques.bigram_start: set model.tied_head to false, leave out model.features.factorised_embedding, and have a "
            f"vocabulary of model.width to {LARGEST} tokens",
        )

    @torch.no_grad()
    def initialise(self, tokens) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed)
        log_p, share = bigrams(tokens[: self.options.tokens], self.model.config.vocabulary_size, self.options.smoothing)
        left, right = factors(log_p, share, self.model.config.width, generator)
        for table, values in ((self.model.embedding, left * self.options.std), (self.model.unembedding, right)):
            values = values.to(table.weight)
            if self.world.size > 1:  # another machine's arithmetic may round otherwise
                torch.distributed.broadcast(values, 0)
            table.weight.copy_(values)


def bigrams(tokens: np.ndarray, vocabulary: int, smoothing: float) -> tuple[Tensor, Tensor]:
    """log p(v|t), float32 (V, V), and the share of each token t, float32 (V,)."""
    ids = torch.from_numpy(np.asarray(tokens, np.int64))
    counts = torch.bincount(ids[:-1] * vocabulary + ids[1:], minlength=vocabulary**2).view(vocabulary, vocabulary)
    seen, mixed = counts.sum(dim=1, keepdim=True).float(), smoothing * (1 + (counts > 0).sum(dim=1, keepdim=True)).float()
    following = counts.sum(dim=0).float() + 0.5
    log_p = ((counts + mixed * (following / following.sum())) / (seen + mixed)).log()
    return log_p, ((seen + 1) / (seen.sum() + vocabulary)).squeeze(1)


def factors(log_p: Tensor, share: Tensor, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """L with rows of length sqrt(width), and R, float32 (V, width) each: L R' is log_p up to a constant for each row, and to the rank."""
    root = share.sqrt()[:, None]
    weighted = root * (log_p - log_p.mean(dim=1, keepdim=True))
    basis = torch.randn(len(weighted), min(width - 1 + RANK_SPARE, len(weighted)), generator=generator)
    for _ in range(PASSES):
        basis = torch.linalg.qr(weighted @ (weighted.mT @ basis)).Q
    u, s, vh = torch.linalg.svd(basis.mT @ weighted, full_matrices=False)
    u, s, vh = (basis @ u)[:, : width - 1], s[: width - 1], vh[: width - 1]
    left, right = u * s.sqrt() / root, vh.mT * s.sqrt()
    lengths = left.norm(dim=1, keepdim=True)
    longest = lengths.quantile(LONGEST)
    left = left * (longest / lengths.clamp(min=1e-12)).clamp(max=1.0)
    rest = (longest**2 - left.square().sum(dim=1, keepdim=True)).clamp(min=0.0).sqrt()
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    scale = width**0.5 / longest
    return torch.cat([left, rest], dim=1) @ turn * scale, torch.nn.functional.pad(right, (0, 1)) @ turn / scale
