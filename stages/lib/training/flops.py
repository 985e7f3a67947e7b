"""FLOPs of a network per token. Torch counts them while the network runs on the meta device, where tensors have shapes but no values.

    a matrix (out, in), the head included                                     2 in out
    attention of H heads of width K, causal average of (T + 1) / 2 keys       2 H K (T + 1): scores and weighted sum

A layer that runs several times counts each time. Table look-ups, norms and elementwise work are not counted. Training is three times the
forward pass, because each product has two in the backward pass. For packed documents, which see fewer keys, it is an upper bound.

Torch counts attention as if every token read all T keys. A row of T tokens then has a T + c T² FLOPs. Rows of 1 and of 2 tokens give a and
c, and a token of a causal row has a + c (T + 1) / 2. A row of 3 tokens shows whether the network is of that form.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from stages.runtime.network.gpt import GPT

TRAINING = 3  # cost of a training step in forward passes
ROWS = (1, 2, 3)  # lengths in tokens of the rows that are counted
PRODUCT = re.compile("mm|mv|dot|conv|attention|matmul|linear|cdist|fft")  # part of the name of each torch operator that multiplies and sums
WHERE = ("aten", "prim", "prims")  # namespaces of torch's own operators; the work of other kernels is not visible in their names


class Known(TorchDispatchMode):
    """Raises ValueError for a product that torch's counter would count as 0."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_product = func.namespace not in WHERE or PRODUCT.search(func.overloadpacket.__name__)
        if is_product and func.overloadpacket not in flop_registry:
            raise ValueError(
                f"the network multiplies with {func.overloadpacket}, for which torch.utils.flop_counter has no counting rule; "
                "use torch.nn.functional.linear, or register a rule with register_flop_formula"
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count what runs inside the block, without gradients. ValueError for a product that cannot be counted."""
    with FlopCounterMode(display=False) as counter, Known(), torch.no_grad():
        yield counter


def tokens(length: int) -> torch.Tensor:
    return torch.zeros(1, length, dtype=torch.int64, device="meta")


def causal(rows: tuple[int, ...], *, length: int) -> int:
    """FLOPs per token of a row of `length` tokens, from torch's counts of the rows of ROWS."""
    one, two, three = rows
    per_key = (two - 2 * one) // 2
    per_token = one - per_key
    if (2 * per_token + 4 * per_key, 3 * per_token + 9 * per_key) != (two, three):
        raise ValueError(
            f"the network's FLOPs in rows of 1, 2 and 3 tokens are {one}, {two} and {three}, which is not attention and work "
            "for each token; the rule by which FLOPs are counted needs another term"
        )
    return per_token + per_key * (length + 1) // 2


def forward(net: GPT, *, length: int) -> int:
    """FLOPs of the forward pass per token, in a row of `length` tokens. The network is on the meta device."""
    rows = []
    for row in ROWS:
        with counted() as counter:
            net(tokens(row))
        rows.append(counter.get_total_flops())
    return causal(tuple(rows), length=length)


def auxiliary(net: GPT, *, length: int) -> int:
    """FLOPs per token of the forward pass of what only training computes."""
    losses = net.hooks.having["auxiliary_loss"]
    if not losses:
        return 0
    with torch.no_grad():
        hidden_BTD = net.hidden(tokens(length))
        logits_NV = net.uncapped(hidden_BTD).flatten(0, 1)
    with counted() as counter:
        for feature in losses:
            feature.auxiliary_loss(hidden_BTD, tokens(length), logits_NV)
    return counter.get_total_flops() // length


def training(net: GPT, *, length: int) -> int:
    """FLOPs per token of the forward and backward pass."""
    return TRAINING * (forward(net, length=length) + auxiliary(net, length=length))
