"""The spine of the network, to be read from top to bottom.

* tied embedding: the head multiplies by the table that embeds the tokens
* pre-norm blocks: x <- x + a ⊙ Attention(rms(x));  x <- x + b ⊙ MLP(rms(x)), a and b learned per feature
* RMSNorm without weights, grouped-query attention with QK-norm and partial RoPE (attention.py), squared activation (mlp.py)
* logits are soft-capped: z <- c tanh(z / c), which keeps one confident token from dominating the loss
"""

# B batch, T time, D width, V vocabulary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, rms
from .config import ModelConfig
from .mlp import MLP


class Block(nn.Module):
    """One layer: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.attention_scale = nn.Parameter(torch.ones(config.width))
        self.mlp_scale = nn.Parameter(torch.ones(config.width))

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        x_BTD = x_BTD + self.attention_scale.to(x_BTD.dtype) * self.attention(rms(x_BTD), cu_seqlens, max_seqlen)
        return x_BTD + self.mlp_scale.to(x_BTD.dtype) * self.mlp(rms(x_BTD))


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, V). Row t depends on tokens 0..t of its own sequence and on nothing else.

    With packed documents, on tokens 0..t of its own segment: `cu_seqlens` are the segments' starts in the flattened (B T)
    tokens, int32 (S+1,), then B T; a row starts a segment. No segment has more than `max_seqlen` tokens (None: T).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def hidden(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        """Final normalised hidden states (B, T, D): the input of `head`."""
        x_BTD = rms(self.embedding(tokens_BT))
        for block in self.blocks:
            x_BTD = block(x_BTD, cu_seqlens, max_seqlen)
        return rms(x_BTD)

    def head(self, hidden_D: Tensor) -> Tensor:
        """(..., D) -> soft-capped float32 logits (..., V)."""
        cap = self.config.logit_softcap
        logits_V = F.linear(hidden_D, self.embedding.weight.to(hidden_D.dtype)).float()
        return cap * torch.tanh(logits_V / cap)

    def forward(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        return self.head(self.hidden(tokens_BT, cu_seqlens, max_seqlen))


@torch.no_grad()
def initialise(model: GPT, *, generator: torch.Generator) -> None:
    """Fill every weight in place, in the order of `named_parameters` (same generator state, same weights).

    | tensor                                   | distribution                                     |
    |------------------------------------------|--------------------------------------------------|
    | embedding                                | N(0, embedding_std²)                             |
    | attention.query / key / value, mlp.up    | orthogonal, gain 1                               |
    | attention.output, mlp.down               | 0: every block starts as the identity            |
    | query_gain                               | model.query_gain                                 |
    | attention_scale, mlp_scale               | 1                                                |
    """
    for name, weight in model.named_parameters():
        kind = name.rsplit(".", 2)
        if name == "embedding.weight":
            weight.normal_(0.0, model.config.embedding_std, generator=generator)
        elif kind[-2] in ("query", "key", "value", "up"):
            nn.init.orthogonal_(weight, generator=generator)
        elif kind[-2] in ("output", "down"):
            weight.zero_()
        elif kind[-1] == "query_gain":
            weight.fill_(model.config.query_gain)
        elif kind[-1] in ("attention_scale", "mlp_scale"):
            weight.fill_(1.0)
        else:
            raise AssertionError(f"no initialisation rule for {name}")


def matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers by name: what Muon trains and GPTQ quantizes. The embedding is not among them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
