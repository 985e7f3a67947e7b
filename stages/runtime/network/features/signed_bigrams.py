"""Signed bigrams: a hashed embedding of each token with its predecessor, with signs that tell apart what shares a row, in every layer.

    row_t = ((36313 tok_t) xor (27191 tok_{t-1})) mod (buckets - 1)           the last row stands for the first position
    s_t   = signs of index (tok_{t-1} xor tok_t) mod 8192                      index 0 for the first position
    before layer l:  x_t[:width] <- x_t[:width] + λ_l E[row_t] ⊙ s_t           E: buckets x width, starts at 0;  λ_l starts at `scale`

The sign of a channel is a bit of a mixed integer of index and channel, so that nothing is stored. The predecessor may belong to another
document. A layer that recurs adds it each time. Source: modded-nanogpt, track 1, PR #201, #299 (192 channels, 15 · 50,304 rows, λ 0.05).
There the signs are drawn, and the table has a rate and a decay of its own; here it is trained with the embedding.
"""

# B batch, T time, E width of the table

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass, require, table

MULTIPLIERS = (36313, 27191)  # of the token and the one before: #549
SIGNS = 8192  # different vectors of signs
ODD = 0x1E3779B97F4A7C15  # odd, and near 2^64 divided by the golden ratio but for its first bit


class Feature(nn.Module):
    """Parameters: table (N, E), scale (L)."""

    def __init__(self, config: ModelConfig, *, buckets: int, width: int, scale: float):
        super().__init__()
        require(
            buckets >= 2 and 1 <= width <= config.width,
            f"model.features.signed_bigrams takes buckets of 2 or more and a width of 1 to model.width {config.width}, not {buckets} and "
            f"{width}",
        )
        self.initial_scale, self.table = scale, table(buckets, width)
        self.scale = nn.Parameter(torch.empty(config.num_layers))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.table.weight.zero_()
        self.scale.fill_(self.initial_scale)

    def enter(self, x_BTD: Tensor, layer: int, now: Pass) -> Tensor:
        if "signed_bigrams" not in now.kept:  # computed once for all layers
            now.kept["signed_bigrams"] = self._found(now.tokens_BT).to(x_BTD.dtype)
        found_BTE = now.kept["signed_bigrams"]
        width = found_BTE.size(-1)
        return torch.cat((x_BTD[..., :width] + self.scale[layer].to(x_BTD.dtype) * found_BTE, x_BTD[..., width:]), dim=-1)

    def _found(self, tokens_BT: Tensor) -> Tensor:
        """E[row] ⊙ s, (B, T, E)."""
        last, token_BT, before_BT = self.table.num_embeddings - 1, tokens_BT[:, 1:], tokens_BT[:, :-1]
        row_BT = ((MULTIPLIERS[0] * token_BT) ^ (MULTIPLIERS[1] * before_BT)) % last
        row_BT = torch.cat((torch.full_like(tokens_BT[:, :1], last), row_BT), dim=1)
        index_BT = torch.cat((torch.zeros_like(tokens_BT[:, :1]), (before_BT ^ token_BT) % SIGNS), dim=1)
        channels_E = torch.arange(self.table.embedding_dim, device=tokens_BT.device)
        mixed_BTE = (index_BT[..., None] * self.table.embedding_dim + channels_E + 1) * ODD
        mixed_BTE = (mixed_BTE ^ (mixed_BTE >> 32)) * ODD
        return self.table(row_BT) * (1 - 2 * ((mixed_BTE >> 40) & 1))
