"""Gram matrices of the inputs of every matrix: H = X'X over calibration tokens, float32."""

# N tokens, K inputs of a matrix

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from stages.runtime.model import gpt

EMBEDDING, UNEMBEDDING = "embedding", "unembedding"


@torch.no_grad()  # not inference_mode: the model may cache tensors that later need gradients
def collect(model: gpt.GPT, batches: Iterable[Tensor], *, total: int) -> dict[str, Tensor]:
    """Hessians by module name for all linear layers, and for the head's table: the tied embedding, or the unembedding.

    The head's inputs are what `hidden` returns. The role of input table has no layer error to weight: an embedding that is not
    the head has the identity, which makes GPTQ round to nearest.
    """
    head = EMBEDDING if model.config.tied_head else UNEMBEDDING
    found: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        x_NK = x.flatten(0, -2).float()
        if name not in found:
            found[name] = torch.zeros(x_NK.size(1), x_NK.size(1))
        found[name].addmm_(x_NK.mT, x_NK)

    hooks = [layer.register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
             for name, layer in gpt.matrices(model).items()]
    try:
        for tokens_BT in tqdm(batches, total=total, desc="calibrate", unit=" sequences", mininterval=1.0):
            add(head, model.hidden(tokens_BT))
    finally:
        for hook in hooks:
            hook.remove()
    return found if head == EMBEDDING else found | {EMBEDDING: torch.eye(model.embedding.embedding_dim)}
