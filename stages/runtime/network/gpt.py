"""The spine of the network, to be read from top to bottom.

* tied embedding: the head multiplies by the table that embeds the tokens (or by one of its own: tied_head)
* pre-norm blocks: x <- x + a ⊙ Attention(rms(x));  x <- x + b ⊙ MLP(rms(x)), a and b learned per feature
* RMSNorm without weights, grouped-query attention with QK-norm and partial RoPE (attention.py), squared activation (mlp.py)
* logits are soft-capped: z <- c tanh(z / c), which keeps one confident token from dominating the loss
* features act at the places marked `hooks.apply`; the six that change the build are named where they do it
"""

# B batch, T time, D width, V vocabulary

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import features
from .attention import Attention, rms
from .config import ModelConfig
from .features import Hooks, Pass
from .memory import Memory
from .mlp import MLP


class Block(nn.Module):
    """The two branches of one layer, each (B, T, D) -> (B, T, D); GPT adds them to the stream."""

    def __init__(self, config: ModelConfig, *, has_attention: bool):
        super().__init__()
        self.attention = Attention(config) if has_attention else None
        self.mlp = MLP(config)
        self.attention_scale = nn.Parameter(torch.ones(config.width)) if has_attention else None
        self.mlp_scale = nn.Parameter(torch.ones(config.width))

    def attend(self, x_BTD: Tensor, layer: int, hooks: Hooks, now: Pass) -> Tensor:
        u_BTD = hooks.apply("normalised", rms(x_BTD), layer)
        return self.attention_scale.to(x_BTD.dtype) * self.attention(u_BTD, layer, hooks, now)

    def feed(self, x_BTD: Tensor, layer: int, hooks: Hooks, now: Pass) -> Tensor:
        u_BTD = hooks.apply("normalised", rms(x_BTD), layer)
        return self.mlp_scale.to(x_BTD.dtype) * self.mlp(u_BTD, layer, hooks, now)


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, V). Row t depends on tokens 0..t of its own sequence and on nothing else.

    With packed documents, on tokens 0..t of its own segment: `cu_seqlens` are the segments' starts in the flattened (B T)
    tokens, int32 (S+1,), then B T; a row starts a segment. No segment has more than `max_seqlen` tokens (None: T). Two features
    look one or two tokens back across segments, as published: bigram_hash, and smear_gate in its first version.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.attention_backend = "auto"  # not architecture: what trained with one back end is evaluated with any (backends.py)
        self.features = features.build(config)
        factorised, skip_attention = (self.features.get(name) for name in ("factorised_embedding", "skip_attention"))
        table_width = factorised.width if factorised else config.width
        self.embedding = features.table(config.vocabulary_size, table_width)
        without = skip_attention.layers if skip_attention else ()
        self.blocks = nn.ModuleList(Block(config, has_attention=layer not in without) for layer in range(config.num_layers))
        if not config.tied_head:
            self.unembedding = features.table(config.vocabulary_size, table_width)
        for name, feature in self.features.items():
            self.add_module(name, feature)
        self.hooks = Hooks(self.features)

    def hidden(
        self,
        tokens_BT: Tensor,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        *,
        memory: Memory | None = None,
        last_rows: int = 0,
    ) -> Tensor:
        """Final normalised hidden states (B, T, D), in the width of the table: the input of `head`.

        For evaluation: only the `last_rows` last of each row (0: all), which saves most of the last layer; or a row that goes on
        from what `memory` has kept of the tokens before.
        """
        now = Pass(tokens_BT, cu_seqlens, max_seqlen, self.attention_backend, past=memory)
        x_BTD = self.hooks.apply("embed", self.embedding(tokens_BT), now)
        x_BTD = self.hooks.apply("stream", rms(x_BTD), now)
        now.start_BTD = x_BTD
        recurrence, skips, two_lane = (self.features.get(name) for name in ("depth_recurrence", "unet_skips", "two_lane"))
        layers = recurrence.layers() if recurrence else range(self.config.num_layers)
        half, first_half, lane_BTD = len(layers) // 2, [], None
        for position, layer in enumerate(layers):
            if two_lane and lane_BTD is None and layer >= two_lane.first_layer:
                lane_BTD = x_BTD
            if skips and position >= half and first_half:
                written_BTD = first_half.pop()
                x_BTD = skips.merge(x_BTD, written_BTD, position - half)
                if two_lane and lane_BTD is not None and two_lane.skips_join_both:
                    lane_BTD = skips.merge(lane_BTD, written_BTD, position - half)
            now.is_repetition = layer in layers[:position]
            if position + 1 == len(layers) and lane_BTD is None and cu_seqlens is None:
                now.last_rows = last_rows
            if two_lane and lane_BTD is not None:
                x_BTD, lane_BTD = self._two_lane_layer(layer, x_BTD, lane_BTD, now)
            else:
                x_BTD = self._layer(layer, x_BTD, now)
            if skips and position < half:
                first_half.append(x_BTD)
        x_BTD = x_BTD if lane_BTD is None else (x_BTD + lane_BTD) / 2
        return self.hooks.apply("final", rms(x_BTD[:, -last_rows:]))

    def _layer(self, layer: int, x_BTD: Tensor, now: Pass) -> Tensor:
        """The stream after one layer."""
        block = self.blocks[layer]
        entered_BTD = self.hooks.apply("enter", x_BTD, layer, now)
        attended_BTD = None if block.attention is None else block.attend(entered_BTD, layer, self.hooks, now)
        entered_BTD = entered_BTD[:, -now.last_rows :]
        x_BTD = entered_BTD if attended_BTD is None else entered_BTD + attended_BTD
        parallel = self.features.get("parallel_residual")
        read_BTD = entered_BTD if parallel and layer >= parallel.first_layer else x_BTD
        return self.hooks.apply("leave", x_BTD + block.feed(read_BTD, layer, self.hooks, now), entered_BTD, layer, now)

    def _two_lane_layer(self, layer: int, x_BTD: Tensor, lane_BTD: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """The stream and the second lane after one layer."""
        block = self.blocks[layer]
        entered_BTD = self.hooks.apply("enter", x_BTD, layer, now)
        attended_BTD = None if block.attention is None else block.attend(entered_BTD, layer, self.hooks, now)
        return self.features["two_lane"].write(
            x_BTD,
            lane_BTD,
            attended_BTD,
            lambda lane_BTD: self.hooks.apply("enter", lane_BTD, layer, now),
            lambda lane_BTD: block.feed(lane_BTD, layer, self.hooks, now),
            layer,
        )

    def head(self, hidden_D: Tensor) -> Tensor:
        """(..., D) -> soft-capped float32 logits (..., V), for scoring. Training has its own loss (stages/train/loss.py).

        Half-precision logits become float32 before the cap. The published code has the cap before, but ran compiled, where the
        fused kernel keeps float32 between the two.
        """
        return self.capped(self.uncapped(hidden_D))

    def capped(self, logits: Tensor) -> Tensor:
        """Scoring's cap c tanh(z / c) of logits (..., V) in any type, in float32."""
        logits = logits.float()
        cap = self.hooks.apply("cap", self.config.logit_softcap, logits)
        return cap * (logits / cap).tanh_()

    def uncapped(self, hidden_D: Tensor) -> Tensor:
        """(..., D) -> the logits (..., V) before the cap, in the type of the stream."""
        return F.linear(hidden_D, self.head_table.to(hidden_D.dtype))

    @property
    def head_table(self) -> Tensor:
        """The matrix (V, D) of the head: the embedding's where they are tied."""
        return self.embedding.weight if self.config.tied_head else self.unembedding.weight

    def forward(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        return self.head(self.hidden(tokens_BT, cu_seqlens, max_seqlen))

    def progress(self, *, step: float = math.inf, fraction: float = 1.0) -> None:
        """Tell the features how far training is: steps done, and the share of the budget. A model as built, or without arguments,
        is a finished one: what switches on during training is on."""
        for feature in self.hooks.having["progress"]:
            feature.progress(self, step=step, fraction=fraction)


@torch.no_grad()
def initialise(model: GPT, *, generator: torch.Generator) -> None:
    """Fill every weight in place, in the order of `named_parameters` (same generator state, same weights).

    | tensor                                   | distribution                                                                  |
    |------------------------------------------|-------------------------------------------------------------------------------|
    | embedding                                | N(0, embedding_std²)                                                          |
    | attention.query / key / value, mlp.up    | published: orthogonal, gain 1; naive: U(-1/sqrt(inputs), 1/sqrt(inputs))      |
    | attention.output, mlp.down, unembedding  | 0: every block starts as the identity                                         |
    | query_gain                               | model.query_gain                                                              |
    | attention_scale, mlp_scale               | 1                                                                             |
    | features                                 | their own `initialise`                                                        |
    """
    for name, weight in model.named_parameters():
        if name.split(".")[0] in model.features:
            continue
        kind = name.rsplit(".", 2)
        if name == "embedding.weight":
            weight.normal_(0.0, model.config.embedding_std, generator=generator)
        elif kind[-2] in ("query", "key", "value", "up"):
            if model.config.initialisation == "published":
                nn.init.orthogonal_(weight, generator=generator)
            else:
                weight.uniform_(-(weight.size(1) ** -0.5), weight.size(1) ** -0.5, generator=generator)
        elif kind[-2] in ("output", "down", "unembedding"):
            weight.zero_()
        elif kind[-1] == "query_gain":
            weight.fill_(model.config.query_gain)
        elif kind[-1] in ("attention_scale", "mlp_scale"):
            weight.fill_(1.0)
        else:
            raise AssertionError(f"no initialisation rule for {name}")
    for feature in model.features.values():
        if next(feature.parameters(), None) is not None:
            feature.initialise(generator=generator)


def matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers by name: what GPTQ quantizes. The embedding is not among them; the features' projections are."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def groups(model: GPT) -> dict[str, list[nn.Parameter]]:
    """Every parameter in exactly one group of the optimizers: matrices of the blocks, tables (embeddings, also those of features),
    constants, which training leaves alone, and scalars, which is all the rest, as #549 has it."""
    out = {
        "matrices": [layer.weight for name, layer in matrices(model).items() if name.startswith("blocks.")],
        "tables": [table.weight for table in model.modules() if isinstance(table, nn.Embedding)],
        "constants": [w for name, feature in model.features.items() if name in features.SCORING_ONLY for w in feature.parameters()],
    }
    taken = {id(weight) for weights in out.values() for weight in weights}
    return out | {"scalars": [weight for weight in model.parameters() if id(weight) not in taken]}
