"""MUDD connections in the two places that were kept: the last layer reads earlier streams, and so does what comes out of it.

    c(x) = 0.1 (W2 gelu(W1 x) + b) for each token: 6 coefficients before the last layer, 4 behind it        W2 and b start at 0
    before the last layer:   v <- v + c0 h_0 + c1 h_late + c2 x  (their first G K features);   x <- (1 + c5) x + c3 h_0 + c4 h_late
    behind the last layer:   x <- x + c0 h_0 + c1 h_late + c2 x_last + c3 h_early

h_0 is the stream before the first layer, h_k the stream that enters the layer after k, with the skips that join there, and x_last what the
last layer has read, without what this feature adds. A layer that recurs counts the last time. W1 has 64 rows and starts orthogonal.
Source: arXiv:2502.12170 (Xiao et al.); modded-nanogpt, track 1, 22 April 2026 (late 7, early 3 of 11 layers). There one more coefficient
behind the last layer is of a value embedding, one of the others starts at -0.5, and further ones replace gates of the last layer.
"""

# B batch, T time, D width, G key/value heads, K head width

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from . import Pass, require

HIDDEN, FACTOR = 64, 0.1


class Feature(nn.Module):
    """Parameters: input.<place> (64, D), output.<place> (coefficients, 64), before (6), behind (4); place 0 is before, 1 behind."""

    def __init__(self, config: ModelConfig, *, early: int, late: int):
        super().__init__()
        self.last = config.num_layers - 1
        require(
            early < late < self.last,
            f"model.features.mudd takes early < late < model.num_layers {config.num_layers} - 1, not {early} and {late}",
        )
        require(
            not {"two_lane", "parallel_residual", "skip_attention"} & config.features.keys(),
            "model.features.mudd needs one stream and all attention; leave out two_lane, parallel_residual and skip_attention",
        )
        self.early, self.late = early, late
        self.input = nn.ModuleList(nn.Linear(config.width, HIDDEN, bias=False) for _ in range(2))
        self.output = nn.ModuleList(nn.Linear(HIDDEN, number, bias=False) for number in (6, 4))
        self.before, self.behind = nn.Parameter(torch.empty(6)), nn.Parameter(torch.empty(4))

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        for layer in self.input:
            nn.init.orthogonal_(layer.weight, generator=generator)
        for weight in (*(layer.weight for layer in self.output), self.before, self.behind):
            weight.zero_()

    def enter(self, x_BTD: Tensor, layer: int, now: Pass) -> Tensor:
        for name, place in (("mudd.start", 0), ("mudd.early", self.early + 1), ("mudd.late", self.late + 1)):
            if layer == place and not (name == "mudd.start" and name in now.kept):
                now.kept[name] = x_BTD
        if layer != self.last:
            return x_BTD
        c = self._coefficients(x_BTD, 0)
        start_BTD, late_BTD = now.kept["mudd.start"], now.kept["mudd.late"]
        now.kept["mudd.value"] = c[0] * start_BTD + c[1] * late_BTD + c[2] * x_BTD
        now.kept["mudd.last"] = x_BTD
        return (1 + c[5]) * x_BTD + c[3] * start_BTD + c[4] * late_BTD

    def value(self, v_BTGK: Tensor, layer: int, now: Pass) -> Tensor:
        if layer != self.last:
            return v_BTGK
        return v_BTGK + now.kept["mudd.value"][..., : v_BTGK[0, 0].numel()].view_as(v_BTGK).to(v_BTGK.dtype)

    def leave(self, x_BTD: Tensor, entered_BTD: Tensor, layer: int, now: Pass) -> Tensor:
        if layer != self.last:
            return x_BTD
        c, rows = self._coefficients(x_BTD, 1), x_BTD.size(1)
        streams = (now.kept[f"mudd.{name}"][:, -rows:] for name in ("start", "late", "last", "early"))
        return x_BTD + sum(weight * stream for weight, stream in zip(c, streams, strict=True))

    def _coefficients(self, x_BTD: Tensor, place: int) -> tuple[Tensor, ...]:
        """One (B, T, 1) for each coefficient of a place."""
        bias = (self.before, self.behind)[place].to(x_BTD.dtype)
        c_BTN = FACTOR * (self.output[place](F.gelu(self.input[place](x_BTD))) + bias)
        return c_BTN.to(x_BTD.dtype).split(1, dim=-1)
