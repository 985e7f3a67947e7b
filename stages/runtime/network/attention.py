"""Causal grouped-query attention with QK-norm and rotary positions.

    q, k, v = Wq u, Wk u, Wv u            heads H, key/value heads G; query head h reads key/value head floor(h G / H)
    q, k <- rotate(rms(q)), rotate(rms(k));  q <- gain_h q
    y_t = softmax_{s<=t}(q_t . k_s / sqrt(K)) v_s;   out = Wo y         features may change v, then y (runtime/network/features)

Packed documents: the sum over s starts at the beginning of t's segment. Positions count through the whole row, because scores depend on
their differences only. backends.py has the programs that compute the sum.

Source: GQA arXiv:2305.13245, QK-norm arXiv:2010.04245, RoPE arXiv:2104.09864; the learned gain per query head: the naive baseline.
"""

# B batch, T time, N = B T, D width, H heads, G key/value heads, K head width

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import backends
from .config import ModelConfig
from .features import Hooks, Pass

RMS_EPSILON = 1.1920929e-07  # float32 machine epsilon, for every dtype
CACHED = 4  # number of lengths whose angles are kept


def rms(x: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, no weight; computed in float32, returned in x's dtype."""
    return F.rms_norm(x.float(), (x.size(-1),), eps=RMS_EPSILON).to(x.dtype)


class Rotary(nn.Module):
    """Rotate the first R = `rope_dims` of each head by angle t * base^(-2i/R), half-split pairing (i, i + R/2).

    The other dimensions stay unchanged. Scores depend on relative positions only. Angles are float32; those of the last CACHED lengths are
    kept, because training and the evaluations during it may have rows of different lengths.
    Rows of T > `trained_length` > 0 tokens stretch the base to base * (T / trained_length)^(R / (R - 2)): the NTK-aware rule, which
    #549 and its successors use with a length of 1024 although they train at 2048.
    """

    def __init__(self, rope_dims: int, base: float, trained_length: int = 0):
        super().__init__()
        self.rope_dims, self.base, self.trained_length = rope_dims, base, trained_length
        self.cached: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, x_BHTK: Tensor, *, start: int = 0, context: int = 0) -> Tensor:
        """Rotate by the positions start, start + 1, ... of a row that has `context` tokens (0: as many as x_BHTK has)."""
        T = x_BHTK.size(-2)
        cos_TR, sin_TR = (table[start : start + T] for table in self.angles(start + T, context or start + T, x_BHTK.device))
        half = cos_TR.size(-1)
        a, b, rest = x_BHTK[..., :half].float(), x_BHTK[..., half : 2 * half].float(), x_BHTK[..., 2 * half :]
        turned = torch.cat((a * cos_TR + b * sin_TR, b * cos_TR - a * sin_TR), dim=-1)
        return torch.cat((turned.to(x_BHTK.dtype), rest), dim=-1)

    def angles(self, length: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin (length, R/2) for rows of `context` tokens; from the cache, which the first call for a length fills."""
        key = length, context, device
        if key not in self.cached:
            if len(self.cached) == CACHED:
                self.cached.pop(next(iter(self.cached)))
            exponents = torch.arange(0, self.rope_dims, 2, dtype=torch.float64, device="cpu") / self.rope_dims
            base = self.base
            if 0 < self.trained_length < context:
                base *= (context / self.trained_length) ** (self.rope_dims / (self.rope_dims - 2))
            angle = torch.outer(torch.arange(length, dtype=torch.float64, device="cpu"), base**-exponents)
            self.cached[key] = angle.cos().float().to(device), angle.sin().float().to(device)
        return self.cached[key]


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D). Row t depends only on rows <= t (of its own segment, if packed). The output projection starts at 0."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = config.num_heads, config.num_kv_heads, config.head_width
        kv_width = self.num_kv_heads * self.head_width
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, kv_width, bias=False)
        self.value = nn.Linear(config.width, kv_width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)
        self.query_gain = nn.Parameter(torch.full((config.num_heads,), config.query_gain))
        self.rotary = Rotary(config.rope_dims, config.rope_base, config.rope_trained_length)

    def forward(self, u_BTD: Tensor, layer: int, hooks: Hooks, now: Pass) -> Tensor:
        """For evaluation only: `now.last_rows` computes only that many last rows (B, rows, D); `now.past` adds earlier keys and values."""
        B, T, D = u_BTD.shape
        rows = now.last_rows or T
        k_BGTK = rms(self.key(u_BTD).view(B, T, self.num_kv_heads, self.head_width).transpose(1, 2))
        v_BTGK = hooks.apply("value", self.value(u_BTD).view(B, T, self.num_kv_heads, self.head_width), layer, now)
        keys_BGSK, values_BSGK, window = k_BGTK, v_BTGK, T
        if now.past is not None:
            keys_BSGK, values_BSGK = now.past.extend(k_BGTK.transpose(1, 2), v_BTGK)
            keys_BGSK, window = keys_BSGK.transpose(1, 2), now.past.window
        u_BTD = u_BTD[:, T - rows :]
        q_BHTK = rms(self.query(u_BTD).view(B, rows, self.num_heads, self.head_width).transpose(1, 2))
        S = keys_BGSK.size(2)
        q_BHTK = self.rotary(q_BHTK, start=S - rows, context=window)
        q_BHTK = q_BHTK * self.query_gain.to(q_BHTK.dtype).view(1, -1, 1, 1)
        keys_BGSK = self.rotary(keys_BGSK, context=window)
        if now.past is None and rows == T:
            y_BTHK = backends.attend(
                q_BHTK.transpose(1, 2), keys_BGSK.transpose(1, 2), values_BSGK, now.cu_seqlens, now.max_seqlen or T, name=now.backend
            )
        else:
            y_BTHK = backends.windowed(q_BHTK.transpose(1, 2), keys_BGSK.transpose(1, 2), values_BSGK, window)
        y_BTHK = hooks.apply("attended", y_BTHK, v_BTGK[:, T - rows :], layer)
        return self.output(hooks.apply("gate", y_BTHK, u_BTD, layer).reshape(B, rows, D))
