"""Factorised embedding: a narrow table, with one projection into the stream and another one out of it.

    x = P_in rms(E[tok])          E: vocabulary x width,  P_in: width -> D;    x is not normalised again
    z = E (P_out rms(x_last))     P_out: D -> width; with an untied head, its table is vocabulary x width too

P_out is not the transpose of P_in. Both start orthogonal; the published ones do so only if both sides have 64 or more, and no optimizer
there trains them. Source: parameter-golf #1285, #1394, #1493, off in all of them (width 512 = D).
"""

# B batch, T time, D width, E width of the table

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass, require


class Feature(nn.Module):
    """Parameters: input (D, E), output (E, D). gpt.py reads `width` when it builds the tables."""

    def __init__(self, config: ModelConfig, *, width: int):
        super().__init__()
        require(
            1 <= width < config.width, f"model.features.factorised_embedding.width is {width}; it takes 1 to model.width {config.width} - 1"
        )
        require(
            "bigram_hash" not in config.features,
            "model.features.bigram_hash adds to the whole width, which factorised_embedding does not have yet; leave one of them",
        )
        window = config.features.get("smear_gate", {}).get("window", 0)
        require(window <= width, f"model.features.smear_gate.window is {window}, but factorised_embedding has a width of {width}; lower it")
        self.width = width
        self.input = nn.Linear(width, config.width, bias=False)
        self.output = nn.Linear(config.width, width, bias=False)

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        nn.init.orthogonal_(self.input.weight, generator=generator)
        nn.init.orthogonal_(self.output.weight, generator=generator)

    def stream(self, x_BTE: Tensor, now: Pass) -> Tensor:
        return self.input(x_BTE)

    def final(self, x_BTD: Tensor) -> Tensor:
        return self.output(x_BTD)
