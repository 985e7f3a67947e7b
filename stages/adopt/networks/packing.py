"""Quantize the matrices of a part of a network in several ways, and pack them: the quantizers, coder and blob of the pipeline.

    nearest   round to nearest with `bits` and a step for each row, from its largest weight
    gptq      GPTQ with the same bits and steps
    entropy   entropy-constrained, with as many coded bits per weight as `gptq` has in the same layer

Tables (embedding, positions, head) are rounded to nearest with 8 bits in all three. Norms and biases are float16.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from stages.adopt.networks.walk import matrices
from stages.lib.blob.grouping import Run
from stages.lib.quant import entropy_model, network
from stages.lib.quant.settings import Group, Groups, QuantizeSettings
from stages.runtime.blob import container, header

WAYS = ("nearest", "gptq", "entropy")
TABLE_BITS = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Packed:
    """`state`: the weights as a decoder has them, by the names of the part. `blobs`: what they are packed into."""

    state: dict[str, Tensor]
    blobs: list[bytes]
    bits_per_weight: float


def settings_of(settings: QuantizeSettings, way: str, bits: int, bits_per_weight: float) -> QuantizeSettings:
    """The settings of params.yaml with one method for all matrices."""
    group = Group(method=way, bits=bits, scales="max", clip=1.0)
    entropy = replace(settings.entropy, bits_per_weight=bits_per_weight, target_bytes=None, row_steps="std")
    return replace(settings, groups=Groups(**{field.name: group for field in fields(Groups)}), overrides=(), entropy=entropy)


def packed(
    module: nn.Module, state: dict[str, Tensor], hessians: dict[str, Tensor], settings: QuantizeSettings, run: Run, *, prefix: str
) -> Packed:
    """Quantize and pack the part `module` of the network. Its tensors are `prefix` and their own name; `hessians` are by module."""
    turned = {f"{name}.weight": is_turned for name, _, is_turned in matrices(module) if f"{name}.weight" in state}
    oriented = {name: tensor.T.contiguous() if turned.get(name) else tensor for name, tensor in state.items()}
    groups = {name: "attention" if "attn" in name or "attention" in name else "mlp" for name in turned}
    with contextlib.redirect_stderr(io.StringIO()):  # several progress bars for each layer
        result = network.quantize(oriented, groups, hessians, settings, rows={}, multipliers={}, device=CPU)
    restored = {name: half.float() for name, half in result.float16.items()}
    restored |= {name: found.weights() for name, found in result.matrices.items()}
    restored = {name: tensor.T.contiguous() if turned.get(name) else tensor for name, tensor in restored.items()}
    rate = entropy_model.estimated(result.matrices).bits_per_weight if result.matrices else 16.0
    schemes = {prefix + name: scheme for name, scheme in result.schemes().items()}
    blobs = []
    for names in _parts({name: oriented[name].numel() for name in oriented}):
        kept = {
            prefix + name: tensor.numpy() for name, tensor in result.stored().items() if name in names or name.rpartition(".")[0] in names
        }
        own = {name: scheme for name, scheme in schemes.items() if name.removeprefix(prefix) in names}
        config = {"transposed": sorted(prefix + name for name in names if turned.get(name))}
        model = container.Model(kept, config, own)
        blobs.append(container.pack(model, list(run.codings(model).values())))
    return Packed(restored, blobs, rate)


def _parts(sizes: dict[str, int]) -> Iterator[set[str]]:
    """Names of tensors that fit into a blob together."""
    names, total = set(), 0
    for name, size in sizes.items():
        if names and total + size > header.MAX_CODES:
            yield names
            names, total = set(), 0
        names.add(name)
        total += size
    if names:
        yield names
