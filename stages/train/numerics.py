"""The numerics policy of training: in which type each tensor is stored, and in which type each result is computed.

| bf16, the contest's policy                              | stored   | computed                                                   |
|---------------------------------------------------------|----------|------------------------------------------------------------|
| tables (embedding; bigram_hash, value_embedding)        | bfloat16 | as stored; gradient and both Adam moments are bfloat16 too |
| linear weights, an untied head                          | float32  | cast at use                                                |
| control tensors (gains, scales, mixes, gates, lambdas)  | float32  | cast at use                                                |
| stream, q, k, v, logits                                 |          | bfloat16                                                   |
| rms, rotary angles, softmax of attention, softcap, loss |          | float32; rms returns its input's type                      |
| running averages                                        | float32  | float32                                                    |

fp32: everything is float32. auto: bf16 on a GPU, fp32 on a CPU. The weights that a training outputs are float32 in either case, but each
has a value that its parameter's type can hold. Averages of a table are rounded, as the contest does when they replace the weights.

Source: the published code, which builds the model, casts it to bfloat16 and casts everything but the embeddings back. There an untied head
is a linear layer, so it stays float32 here too, although it is an embedding here.
"""

import torch
from torch import Tensor, nn

from stages.runtime.network.gpt import GPT


def resolve(precision: str, device: str) -> str:
    """fp32 or bf16, for auto | fp32 | bf16 on a device of type cpu or cuda."""
    if precision == "auto":
        return "bf16" if device == "cuda" else "fp32"
    return precision


def store(model: GPT, precision: str) -> None:
    """Convert every parameter, in place, to its stored type. Call it after initialisation, before the optimizers are made."""
    if precision == "bf16":
        for table in tables(model):
            table.to(torch.bfloat16)


def tables(model: GPT) -> list[nn.Embedding]:
    """The tables that are looked up by token. The head's own table is not among them, because it is multiplied like a matrix."""
    return [module for name, module in model.named_modules() if isinstance(module, nn.Embedding) and name != "unembedding"]


def half(model: GPT) -> list[str]:
    """Names of the parameters that are stored in bfloat16."""
    return [name for name, weight in model.named_parameters() if weight.dtype == torch.bfloat16]


def cast_at_use(precision: str, device: str) -> torch.autocast:
    """The context of every forward pass."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def leaving(model: GPT, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` (by parameter name) as the training outputs them: float32, with values that the parameters' types can hold."""
    return {name: weights[name].to(parameter.dtype).float() for name, parameter in model.named_parameters()}
