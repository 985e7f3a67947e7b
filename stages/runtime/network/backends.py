"""The programs that compute attention: one formula, chosen by name (model.attention_backend) or by `auto`.

    y_t = Σ_s softmax_s(q_t . k_s / sqrt(K)) v_s    over s <= t in t's segment; query head h reads key/value head floor(h G / H)

| name   | program                                                             | where                                        |
|--------|---------------------------------------------------------------------|----------------------------------------------|
| plain  | the formula with a mask, in float32: the definition                 | anywhere; memory B H T²                      |
| sdpa   | torch's scaled_dot_product_attention; packed: one call per segment  | anywhere                                     |
| varlen | torch's varlen_attn                                                 | CUDA from Ampere on, half precision          |
| flash2 | flash_attn: FlashAttention 2, arXiv:2307.08691                      | the same                                     |
| flash3 | flash_attn_interface: FlashAttention 3, arXiv:2407.08608            | Hopper, half precision; used in the contest  |
| flash4 | flash_attn.cute: FlashAttention 4                                   | Hopper and Blackwell, half precision         |

All take full rows, or packed documents: `cu_seqlens` as in GPT, where every row starts a segment; empty segments are allowed.
torch.compile makes one graph of each, except flash4 while flash-attn #2154 is open. Packages other than torch are imported on use.
"""

# B batch, T time, N = B T, H heads, G key/value heads, K head width

import importlib
import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("auto", "plain", "sdpa", "varlen", "flash2", "flash3", "flash4")
MODULES = {  # flash3 exists as two packages
    "flash2": ("flash_attn",),
    "flash3": ("flash_attn_3.flash_attn_interface", "flash_attn_interface"),
    "flash4": ("flash_attn.cute",),
}
# generations, which are major compute capabilities: 8 Ampere, 9 Hopper, 10 to 12 Blackwell (12 without its large tensor cores)
RUNS_ON = {"varlen": range(8, 13), "flash2": range(8, 13), "flash3": (9,), "flash4": range(9, 13)}
AUTO = {"flash4": (10, 11), "flash3": (9,), "flash2": range(8, 13), "varlen": range(8, 13)}  # where auto takes each; tried in order
HALF = (torch.bfloat16, torch.float16)
WAY_OUT = {
    "varlen": "install a newer torch (2.12 has it)",
    "flash2": "pip install flash-attn --no-build-isolation",
    "flash3": "install flash-attn-3 from PyTorch's own package index",
    "flash4": "pip install '.[flash]'",
}


def choose(name: str, *, generation: int, dtype: torch.dtype, head_width: int, packed: bool, installed: tuple[str, ...]) -> str:
    """The back end that `name` stands for. `generation` is the GPU's major compute capability, 0 on a CPU; `installed` are the back ends
    of RUNS_ON that can be imported. ValueError if a name other than auto cannot run; it is never replaced by another."""

    def obstacle(backend: str) -> str | None:
        if backend not in RUNS_ON:
            return None
        if generation not in RUNS_ON[backend]:
            found = f"one of generation {generation}" if generation else "a CPU"
            return f"it needs a GPU of compute capability {min(RUNS_ON[backend])}.0 to {max(RUNS_ON[backend])}.x and this is {found}"
        if dtype not in HALF:
            return f"it needs half precision and this is {dtype}; set train.precision to bf16"
        if head_width % 8 or head_width > 256:
            return f"it needs a head width that 8 divides, up to 256, and this is {head_width}; change model.width or model.num_heads"
        return None if backend in installed else f"it cannot be imported; {WAY_OUT[backend]}"

    if name not in NAMES:
        raise ValueError(f"model.attention_backend is {name!r}; it takes {' | '.join(NAMES)}")
    if name == "auto":
        # full rows without flash-attn: sdpa calls the same kernel as varlen, and needs no list of segments
        wanted = (backend for backend, best in AUTO.items() if generation in best and (packed or backend != "varlen"))
        return next((backend for backend in wanted if not obstacle(backend)), "sdpa")
    if (reason := obstacle(name)) is not None:
        raise ValueError(f"model.attention_backend is {name}, but {reason}, or set model.attention_backend to auto")
    return name


def attend(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, cu_seqlens: Tensor | None, max_seqlen: int, *, name: str) -> Tensor:
    """y (B, T, H, K) in q's dtype, which must be that of k and v; no segment is longer than `max_seqlen`."""
    generation, installed = machine(q_BTHK.dtype) if q_BTHK.is_cuda else (0, ())
    chosen = choose(
        name, generation=generation, dtype=q_BTHK.dtype, head_width=q_BTHK.size(-1), packed=cu_seqlens is not None, installed=installed
    )
    program = {"plain": plain, "sdpa": sdpa, "varlen": varlen}.get(chosen)
    if program is not None:
        return program(q_BTHK, k_BTGK, v_BTGK, cu_seqlens, max_seqlen)
    return flash(q_BTHK, k_BTGK, v_BTGK, cu_seqlens, max_seqlen, name=chosen)


def plain(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, cu_seqlens: Tensor | None, max_seqlen: int) -> Tensor:
    B, T, H, K = q_BTHK.shape
    with torch.autocast(q_BTHK.device.type, enabled=False):
        k_BTHK, v_BTHK = (x.float().repeat_interleave(H // x.size(2), dim=2) for x in (k_BTGK, v_BTGK))
        scores_BHTS = torch.einsum("bthk,bshk->bhts", q_BTHK.float(), k_BTHK) / K**0.5
        weights_BHTS = scores_BHTS.masked_fill(~allowed(B, T, cu_seqlens, q_BTHK.device), float("-inf")).softmax(-1)
        return torch.einsum("bhts,bshk->bthk", weights_BHTS, v_BTHK).to(q_BTHK.dtype)


def allowed(B: int, T: int, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """bool (B or 1, 1, T, T): whether row t may read row s."""
    earlier_TT = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    if cu_seqlens is None:
        return earlier_TT[None, None]
    places_N = torch.arange(B * T, dtype=cu_seqlens.dtype, device=device)
    segment_BT = torch.searchsorted(cu_seqlens, places_N, right=True).view(B, T)
    return (earlier_TT & (segment_BT[:, :, None] == segment_BT[:, None, :]))[:, None]


def sdpa(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, cu_seqlens: Tensor | None, max_seqlen: int) -> Tensor:
    if cu_seqlens is None or torch.compiler.is_compiling():  # a loop over lengths, which are data, breaks the graph; a mask does not
        q_BHTK, k_BGTK, v_BGTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
        mask = {"is_causal": True} if cu_seqlens is None else {"attn_mask": allowed(*q_BTHK.shape[:2], cu_seqlens, q_BTHK.device)}
        return torchs(q_BHTK, k_BGTK, v_BGTK, **mask).transpose(1, 2)
    lengths = [length for length in cu_seqlens.diff().tolist() if length]
    # split instead of slices, because the gradient of a slice is as large as the whole tensor
    parts = zip(*(x.flatten(0, 1).split(lengths) for x in (q_BTHK, k_BTGK, v_BTGK)), strict=True)
    segments = [torchs(*(x.transpose(0, 1)[None] for x in part), is_causal=True)[0].transpose(0, 1) for part in parts]
    return torch.cat(segments).view(q_BTHK.shape)


def torchs(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, **mask) -> Tensor:
    """scaled_dot_product_attention (B, H, T, K). On CUDA only the half-precision kernel without a mask reads a key/value head for several
    query heads. Otherwise torch would take its plain form, which stores B H T S scores, so the heads are repeated for a kernel."""
    H, G = q_BHTK.size(1), k_BGSK.size(1)
    if H != G and q_BHTK.is_cuda and ("attn_mask" in mask or q_BHTK.dtype not in HALF):
        k_BGSK, v_BGSK = (x[:, :, None].expand(-1, -1, H // G, -1, -1).flatten(1, 2) for x in (k_BGSK, v_BGSK))
        G = H
    return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, **mask, enable_gqa=H != G)


def windowed(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, window: int) -> Tensor:
    """Attention of the last T of S positions as queries; each reads the `window` positions that end with its own."""
    T, S = q_BTHK.size(1), k_BSGK.size(1)
    place_T, place_S = torch.arange(S - T, S, device=q_BTHK.device)[:, None], torch.arange(S, device=q_BTHK.device)
    mask_TS = (place_S <= place_T) & (place_S > place_T - window)
    q_BHTK, k_BGSK, v_BGSK = (x.transpose(1, 2) for x in (q_BTHK, k_BSGK, v_BSGK))
    return torchs(q_BHTK, k_BGSK, v_BGSK, attn_mask=mask_TS).transpose(1, 2)


def varlen(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, cu_seqlens: Tensor | None, max_seqlen: int) -> Tensor:
    (kernel,) = kernels("varlen")
    B, T = q_BTHK.shape[:2]
    if cu_seqlens is None:
        cu_seqlens, max_seqlen = torch.arange(0, B * T + 1, T, dtype=torch.int32, device=q_BTHK.device), T
    q_NHK, k_NGK, v_NGK = (x.flatten(0, 1).contiguous() for x in (q_BTHK, k_BTGK, v_BTGK))
    return kernel(
        q_NHK,
        k_NGK,
        v_NGK,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        window_size=(-1, 0),
        enable_gqa=q_BTHK.size(2) != k_BTGK.size(2),
    ).view(q_BTHK.shape)


def flash(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, cu_seqlens: Tensor | None, max_seqlen: int, *, name: str) -> Tensor:
    """Key/value heads are not repeated, because the kernels read each of them for several query heads."""
    rows, segments = kernels(name)
    if cu_seqlens is None:
        out = rows(q_BTHK, k_BTGK, v_BTGK, causal=True)
    else:
        out = segments(
            *(x.flatten(0, 1) for x in (q_BTHK, k_BTGK, v_BTGK)),
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_k=cu_seqlens,
            max_seqlen_q=max_seqlen,
            max_seqlen_k=max_seqlen,
            causal=True,
        )
    # flash4, and flash3 before flash-attn ed20940, return (y, log of the sum of exponentials); the others return y
    return (out[0] if isinstance(out, tuple) else out).view(q_BTHK.shape)


def machine(dtype: torch.dtype) -> tuple[int, tuple[str, ...]]:
    """Major compute capability of the GPU, and the back ends of RUNS_ON that can be imported. Without half precision none of them can run,
    so none is imported."""
    return torch.cuda.get_device_capability()[0], tuple(name for name in RUNS_ON if dtype in HALF and kernels(name))


machine._dynamo_marked_constant = True  # not traced, as with torch.compiler.assume_constant_result, which would import the compiler

LOADED: dict[str, tuple[Callable, ...]] = {}  # a plain mapping, because torch.compile cannot trace functools.cache


def kernels(name: str) -> tuple[Callable, ...]:
    """The functions of a back end; empty if it cannot be imported, for whatever reason: a package built for another torch or CUDA may raise
    anything."""
    if name not in LOADED:
        LOADED[name] = _import(name)
    return LOADED[name]


def _import(name: str) -> tuple[Callable, ...]:
    if name == "varlen":
        try:
            kernel = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        except Exception:
            return ()
        # torch 2.10 has one with another signature
        return (kernel,) if {"window_size", "enable_gqa"} <= inspect.signature(kernel).parameters.keys() else ()
    for module in MODULES[name]:
        try:  # getattr: if only flash-attn-4 is installed, the package flash_attn has no functions
            found = importlib.import_module(module)
            return found.flash_attn_func, found.flash_attn_varlen_func
        except Exception:
            continue
    return ()
