"""Bigram hash: a small embedding of each token together with its predecessor, added to the token's own.

    x_t <- x_t + scale P (E[h_t] + E[h'_t])         E: buckets x width, starts at 0;  P: width -> D, starts orthogonal
    h_t  = ((36313 tok_t) xor (27191 tok_{t-1})) mod (buckets - 1)
    h'_t = ((36313 tok_t) xor (27191 tok_{t-1}) xor (51497 tok_{t-2})) mod (buckets - 1)       only with `trigram`

The last bucket stands for the first position of a row (h) or the first two (h'). The predecessor may belong to another document, as
published. Source: parameter-golf #549; trigram: #1019. The published P is orthogonal if both sides have 64 or more; else it is 0 and
never learns. Here it always starts orthogonal.
"""

# B batch, T time, D width, N buckets, E width of the table

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass, require, table

MULTIPLIERS = (36313, 27191, 51497)  # of the token, the one before, the one before that: #549, #1019


class Feature(nn.Module):
    """Parameters: table (N, E), projection (D, E), scale (1)."""

    def __init__(self, config: ModelConfig, *, buckets: int, width: int, scale: float, trigram: bool):
        super().__init__()
        require(
            buckets >= 2 and width >= 1,
            f"model.features.bigram_hash takes buckets of 2 or more and a width of 1 or more, not {buckets} and {width}",
        )
        self.orders = (2, 3) if trigram else (2,)
        self.initial_scale = scale
        self.table = table(buckets, width)
        self.projection = nn.Linear(width, config.width, bias=False)
        self.scale = nn.Parameter(torch.empty(1))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.table.weight.zero_()
        nn.init.orthogonal_(self.projection.weight, generator=generator)
        self.scale.fill_(self.initial_scale)

    def embed(self, x_BTD: Tensor, now: Pass) -> Tensor:
        found_BTE = sum(self.table(self._indices(now.tokens_BT, order)) for order in self.orders)
        return x_BTD + self.scale.to(x_BTD.dtype) * self.projection(found_BTE)

    def _indices(self, tokens_BT: Tensor, order: int) -> Tensor:
        """Bucket of each position's last `order` tokens, int64 (B, T). int64 holds the products of every 16-bit token."""
        last = self.table.num_embeddings - 1
        T, mixed_BT = tokens_BT.size(1), torch.zeros_like(tokens_BT[:, order - 1 :])
        for back, multiplier in enumerate(MULTIPLIERS[:order]):
            mixed_BT = mixed_BT ^ (multiplier * tokens_BT[:, order - 1 - back : max(T - back, 0)])
        return torch.cat((torch.full_like(tokens_BT[:, : order - 1], last), mixed_BT % last), dim=1)
