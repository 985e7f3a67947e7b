"""Every attention back end and the fused loss equal their plain forms, gradients included.

Inputs are rounded to bfloat16 first, and the plain form computes in float32 on the rounded inputs. A difference is divided by the largest
value that it is compared with, or by 1 if that is larger.
"""

import numpy as np
import torch

from benchmarks.gpu.context import Context
from stages.lib.tokens.loaders import packed
from stages.runtime.network import backends
from stages.train.kernels import softcap_cross_entropy

HEADS, KV_HEADS, WIDTH, ROWS = 8, 4, 64, 4  # those of the published stacks
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-5}  # 8 bits of mantissa round values of order one twice by 4e-3
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = {torch.bfloat16: 1e-2, torch.float32: 5e-5}  # float32 rounds a capped logit of 30 to 4e-6, and so its exponential
CAP = 30.0
OBSTACLE = "model.attention_backend"  # how the sentence begins that says why a back end cannot run here


def measure(context: Context) -> None:
    dtype, tokens = (torch.float32, 64) if context.is_small else (torch.bfloat16, 2048)
    limit = TOLERANCE[dtype]
    for layout in ("full rows", "packed documents"):
        inputs = attention_inputs(tokens, is_packed=layout != "full rows", device=context.device)
        for name in (name for name in backends.NAMES if name != "plain"):
            with context.attempt(f"{name}, {layout}"):
                try:
                    found = attention_difference(name, *inputs, dtype=dtype)
                except ValueError as error:
                    if not str(error).startswith(OBSTACLE):
                        raise
                    context.note(f"{name}, {layout}", str(error).partition(", but ")[2].partition(";")[0].partition(", or set")[0])
                else:
                    context.note(f"{name}, {layout}", found, "largest difference", goal=f"{limit:g}", holds=found <= limit)
    if context.is_small or not softcap_cross_entropy.is_available():
        context.note("fused loss", "it needs a GPU and the package triton")
        return
    for dtype, limit in GRADIENT_TOLERANCE.items():
        with context.attempt(f"fused loss, {dtype}"):
            loss, gradient = loss_differences(8192, 8192, dtype)
            context.note(f"fused loss, {dtype}", loss, "nats", goal=f"{LOSS_TOLERANCE:g}", holds=loss <= LOSS_TOLERANCE)
            context.note(f"its gradient, {dtype}", gradient, "relative difference", goal=f"{limit:g}", holds=gradient <= limit)


def attention_inputs(tokens: int, *, is_packed: bool, device: str) -> tuple:
    """q, k, v (ROWS, tokens, heads, WIDTH) of values that bfloat16 can hold, a direction of the output's gradient, cu_seqlens."""
    generator = torch.Generator().manual_seed(0)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    q, k, v, direction = (torch.randn(ROWS, tokens, n, WIDTH, generator=generator).bfloat16().float().to(device) for n in heads)
    if not is_packed:
        return q, k, v, direction, None
    ids = np.random.default_rng(0).integers(0, tokens // 5, (ROWS, tokens))  # about five documents in a row
    return q, k, v, direction, torch.from_numpy(packed.segments(ids, cut=tokens)).to(device)


def attention_difference(name: str, q, k, v, direction, cu_seqlens, *, dtype: torch.dtype) -> float:
    """Between a back end in `dtype` and the plain form in float32: the largest of the output and the three gradients."""
    results = []
    for program, kind in (("plain", torch.float32), (name, dtype)):
        own = [x.detach().to(kind).requires_grad_() for x in (q, k, v)]
        y = backends.attend(*own, cu_seqlens, q.size(1), name=program)
        results.append([y, *torch.autograd.grad((y.float() * direction).sum(), own)])
    return max(difference(wanted, found) for wanted, found in zip(*results, strict=True))


def loss_differences(rows: int, vocabulary: int, dtype: torch.dtype) -> tuple[float, float]:
    """Nats between fused and plain loss, and the relative difference of their gradients."""
    generator, results = torch.Generator().manual_seed(0), []
    logits = (20 * torch.randn(rows, vocabulary, generator=generator)).to("cuda", dtype)
    targets = torch.randint(vocabulary, (rows,), generator=generator).cuda()
    for form in (softcap_cross_entropy.plain, softcap_cross_entropy.fused):
        own = logits.clone().requires_grad_()
        loss = form(own, targets, CAP)
        loss.backward()
        results.append((loss.item(), own.grad.float() * rows))  # the mean over rows makes each gradient small
    (plain, expected), (fused, gradient) = results
    return abs(plain - fused), difference(expected, gradient)


def difference(wanted: torch.Tensor, found: torch.Tensor) -> float:
    return ((wanted.float() - found.float()).abs().max() / max(1.0, wanted.abs().max().item())).item()
