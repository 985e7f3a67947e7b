"""Mean cross-entropy of soft-capped logits. The Triton kernel for a GPU needs no second copy of the logits; there is also a plain form.

    l = c tanh(z / c);   loss = mean over rows of  logsumexp(l) - l_y
    dz_v = g / N (p_v - [v = y]) (1 - tanh²(z_v / c)),   p = softmax(l)

z (N, V) are the logits before the cap, in bfloat16 or float32; sums are float32. The kernel reads z once forward and once backward and
keeps z and one number for each row. The plain form also keeps the capped logits in float32, which is twice the size of z. Source: the
formula of #1855's fused kernel.
"""

# N rows, V vocabulary

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

COLUMNS = 1024  # columns of the vocabulary per pass of the kernel's loop


def plain(logits_NV: Tensor, targets_N: Tensor, cap: float) -> Tensor:
    """The definition, in plain torch operations."""
    return F.cross_entropy(cap * torch.tanh(logits_NV.float() / cap), targets_N)


def is_available() -> bool:
    """Whether the fused form can run here, if the tensors are on a GPU."""
    return importlib.util.find_spec("triton") is not None


if is_available():
    import triton
    import triton.language as tl

    @triton.jit
    def _capped(z, cap):
        return cap * (2 * tl.sigmoid(2 * z / cap) - 1)

    @triton.jit
    def _forward(logits, targets, losses, normalisers, V, cap, COLUMNS: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        highest, total = float("-inf"), 0.0
        for start in range(0, V, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            z = tl.load(logits + row * V + columns, mask=columns < V, other=0.0).to(tl.float32)
            capped = tl.where(columns < V, _capped(z, cap), float("-inf"))
            higher = tl.maximum(highest, tl.max(capped, axis=0))
            total = total * tl.exp(highest - higher) + tl.sum(tl.exp(capped - higher), axis=0)
            highest = higher
        normaliser = highest + tl.log(total)
        target = tl.load(targets + row)
        of_target = _capped(tl.load(logits + row * V + target).to(tl.float32), cap)
        tl.store(losses + row, normaliser - of_target)
        tl.store(normalisers + row, normaliser)

    @triton.jit
    def _backward(logits, targets, normalisers, scale, gradients, V, cap, COLUMNS: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        normaliser, target, factor = tl.load(normalisers + row), tl.load(targets + row), tl.load(scale)
        for start in range(0, V, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            z = tl.load(logits + row * V + columns, mask=columns < V, other=0.0).to(tl.float32)
            capped = _capped(z, cap)
            slope = 1 - (capped / cap) * (capped / cap)
            gradient = factor * (tl.exp(capped - normaliser) - tl.where(columns == target, 1.0, 0.0)) * slope
            tl.store(gradients + row * V + columns, gradient.to(gradients.dtype.element_ty), mask=columns < V)

    @torch.library.triton_op("caddie::softcap_cross_entropy", mutates_args={})
    def _losses(logits_NV: Tensor, targets_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
        losses_N = torch.empty(len(logits_NV), device=logits_NV.device, dtype=torch.float32)
        normalisers_N = torch.empty_like(losses_N)
        torch.library.wrap_triton(_forward)[(len(logits_NV),)](
            logits_NV, targets_N, losses_N, normalisers_N, logits_NV.size(1), cap, COLUMNS=COLUMNS
        )
        return losses_N, normalisers_N

    @torch.library.triton_op("caddie::softcap_cross_entropy_backward", mutates_args={})
    def _gradients(logits_NV: Tensor, targets_N: Tensor, normalisers_N: Tensor, scale: Tensor, cap: float) -> Tensor:
        gradients_NV = torch.empty_like(logits_NV)
        torch.library.wrap_triton(_backward)[(len(logits_NV),)](
            logits_NV, targets_N, normalisers_N, scale, gradients_NV, logits_NV.size(1), cap, COLUMNS=COLUMNS
        )
        return gradients_NV

    def _keep(ctx, inputs, output) -> None:
        logits_NV, targets_N, ctx.cap = inputs
        ctx.save_for_backward(logits_NV, targets_N, output[1])

    def _differentiate(context, gradient_N, _):
        logits_NV, targets_N, normalisers_N = context.saved_tensors
        # the loss is a mean, so every row has the same gradient
        scale = gradient_N.float().mean().reshape(1)
        return _gradients(logits_NV, targets_N, normalisers_N, scale, context.cap), None, None

    _losses.register_autograd(_differentiate, setup_context=_keep)


def fused(logits_NV: Tensor, targets_N: Tensor, cap: float) -> Tensor:
    """The same value by the kernel. Needs Triton, and tensors on a GPU (or Triton's interpreter)."""
    return _losses(logits_NV.contiguous(), targets_N.contiguous(), cap)[0].mean()
