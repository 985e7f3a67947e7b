"""Causal grouped-query attention with QK-norm and rotary positions.

    q, k, v = Wq u, Wk u, Wv u            heads H, key/value heads G; query head h reads key/value head floor(h G / H)
    q, k <- rotate(rms(q)), rotate(rms(k));  q <- gain_h q
    y_t = softmax_{s<=t}(q_t . k_s / sqrt(K)) v_s;   out = Wo y         features may change v, then y (runtime/features)

Packed documents: the sum over s starts at the beginning of t's segment. Positions run on through the row, as scores depend on
their differences only.

Source: GQA arXiv:2305.13245, QK-norm arXiv:2010.04245, RoPE arXiv:2104.09864; the field's form (learned gain per query head).
"""

# B batch, T time, N = B T, D width, H heads, G key/value heads, K head width

import functools
import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..features import Hooks, Pass
from .config import ModelConfig

RMS_EPSILON = 1.1920929e-07  # float32 machine epsilon, whatever the dtype


def rms(x: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, no weight; computed in float32, returned in x's dtype."""
    return F.rms_norm(x.float(), (x.size(-1),), eps=RMS_EPSILON).to(x.dtype)


class Rotary(nn.Module):
    """Rotate the first R = `rope_dims` of each head by angle t * base^(-2i/R), half-split pairing (i, i + R/2).

    The other dimensions pass unchanged, so scores depend on relative positions only. Angles are float32, cached by length.
    Rows of T > `trained_length` > 0 tokens stretch the base to base * (T / trained_length)^(R / (R - 2)): the NTK-aware rule, which
    the field has in #549's family with a length of 1024 while it trains at 2048.
    """

    def __init__(self, rope_dims: int, base: float, trained_length: int = 0):
        super().__init__()
        self.rope_dims, self.base, self.trained_length = rope_dims, base, trained_length
        self.cached: tuple | None = None

    def forward(self, x_BHTK: Tensor) -> Tensor:
        cos_TR, sin_TR = self._angles(x_BHTK.size(-2), x_BHTK.device)
        half = cos_TR.size(-1)
        a, b, rest = x_BHTK[..., :half].float(), x_BHTK[..., half:2 * half].float(), x_BHTK[..., 2 * half:]
        turned = torch.cat((a * cos_TR + b * sin_TR, b * cos_TR - a * sin_TR), dim=-1)
        return torch.cat((turned.to(x_BHTK.dtype), rest), dim=-1)

    def _angles(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if self.cached is None or self.cached[0].size(0) != length or self.cached[0].device != device:
            exponents = torch.arange(0, self.rope_dims, 2, dtype=torch.float64, device="cpu") / self.rope_dims
            base = self.base
            if 0 < self.trained_length < length:
                base *= (length / self.trained_length) ** (self.rope_dims / (self.rope_dims - 2))
            angle = torch.outer(torch.arange(length, dtype=torch.float64, device="cpu"), base**-exponents)
            self.cached = angle.cos().float().to(device), angle.sin().float().to(device)
        return self.cached


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D); row t depends on rows <= t (of its segment, if packed: GPT) only. Output projection starts at zero."""

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
        B, T, D = u_BTD.shape
        q_BHTK = self.query(u_BTD).view(B, T, self.num_heads, self.head_width).transpose(1, 2)
        k_BGTK = self.key(u_BTD).view(B, T, self.num_kv_heads, self.head_width).transpose(1, 2)
        v_BTGK = hooks.apply("value", self.value(u_BTD).view(B, T, self.num_kv_heads, self.head_width), layer, now)
        q_BHTK = self.rotary(rms(q_BHTK)) * self.query_gain.to(u_BTD.dtype).view(1, -1, 1, 1)
        k_BGTK = self.rotary(rms(k_BGTK))
        if now.cu_seqlens is not None:
            q_NHK, k_NGK, v_NGK = q_BHTK.transpose(1, 2).flatten(0, 1), k_BGTK.transpose(1, 2).flatten(0, 1), v_BTGK.flatten(0, 1)
            y_BTHK = segmented(q_NHK, k_NGK, v_NGK, now.cu_seqlens, now.max_seqlen or T).view(B, T, self.num_heads, -1)
        else:
            y_BTHK = F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BTGK.transpose(1, 2), is_causal=True,
                                                    enable_gqa=self.num_kv_heads != self.num_heads).transpose(1, 2)
        y_BTHK = hooks.apply("attended", y_BTHK, v_BTGK, layer)
        return self.output(hooks.apply("gate", y_BTHK, u_BTD, layer).reshape(B, T, D))


def segmented(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Causal attention (N, H, K) inside the segments [cu_seqlens[i], cu_seqlens[i + 1]), which cover 0..N; empty ones are allowed.

    One kernel for all segments where torch has one (CUDA, half precision), otherwise a call for each: no N x N mask is made.
    """
    q_NHK = q_NHK.to(v_NGK.dtype)  # the learned gain is float32 and lifts q out of autocast
    kernel = _kernel() if q_NHK.is_cuda and q_NHK.dtype in (torch.float16, torch.bfloat16) else None
    if kernel is not None:
        return kernel(q_NHK.contiguous(), k_NGK.contiguous(), v_NGK.contiguous(), cu_seqlens, cu_seqlens, max_seqlen, max_seqlen,
                      window_size=(-1, 0), enable_gqa=q_NHK.size(1) != k_NGK.size(1))
    lengths = [length for length in cu_seqlens.diff().tolist() if length]
    # split, not slices: the gradient of a slice is as large as the whole
    parts = [F.scaled_dot_product_attention(q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], is_causal=True,
                                            enable_gqa=q.size(1) != k.size(1))[0].transpose(0, 1)
             for q, k, v in zip(q_NHK.split(lengths), k_NGK.split(lengths), v_NGK.split(lengths), strict=True)]
    return torch.cat(parts)


@functools.cache
def _kernel() -> Callable | None:
    """torch's variable-length flash attention, or None before the version whose signature is used here (torch 2.10 has an older one)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys() else None
