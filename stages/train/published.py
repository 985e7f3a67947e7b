"""Read a published checkpoint: its tensors by their published names become our parameters. published.yaml has the names of each stack.

Every tensor is used or named, every parameter is filled, and every size is checked against the model. Values are float32, exactly those
that were stored: float32, float16 and bfloat16 are read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from stages.lib.node.params import nearest, require
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT

NAMES = Path(__file__).with_name("published.yaml")
TYPES = (torch.float32, torch.float16, torch.bfloat16)
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
SHOWN = 3  # faults that an error names

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """A part of our parameter `ours` of this shape, and where a checkpoint has it: tensor `theirs`, both with an index (): all of it."""

    ours: str
    into: Index
    theirs: str
    index: Index
    shape: tuple[int, ...]


def stacks() -> list[str]:
    return list(_table()["stacks"])


def parameters(found: dict[str, Tensor], stack: str, config: ModelConfig) -> dict[str, Tensor]:
    """Our parameters by name, float32, from the tensors of a checkpoint of `stack`. ValueError naming up to three faults."""
    known = _table()["stacks"]
    require(stack in known, f"there is no published stack {stack!r}{nearest(stack, known)}")
    found, entry = _bare(found), known[stack]
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in GPT(config).named_parameters()}
    _drop_tied_head(found, config)
    form = max(entry["forms"], key=lambda form: sum(name in found for name in _names(form, shapes, config)))  # of equal ones the first
    pieces = [piece for part in (*entry["parts"], form) for piece in _pieces(part, shapes, config)]
    faults = list(_faults(found, pieces, shapes, stack))
    if faults:
        raise ValueError("; ".join(faults[:SHOWN]) + (f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""))
    needed = _needed(pieces)
    out = {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
    for piece in pieces:
        out[piece.ours][piece.into] = found[piece.theirs].reshape(needed[piece.theirs])[piece.index].float().reshape(piece.shape)
    return out


def _table() -> dict:
    return yaml.safe_load(NAMES.read_text(encoding="utf-8"))


def _bare(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without a prefix that a wrapper gave to all of their names."""
    for prefix in WRAPPERS:
        if found and all(name.startswith(prefix) for name in found):
            return _bare({name.removeprefix(prefix): tensor for name, tensor in found.items()})
    return dict(found)


def _drop_tied_head(found: dict[str, Tensor], config: ModelConfig) -> None:
    """Remove a head that is the table of the embedding itself, as some tools save a tied one twice."""
    head, table = found.get("lm_head.weight"), found.get("tok_emb.weight")
    if config.tied_head and head is not None and table is not None:
        require(
            torch.equal(head, table),
            "lm_head.weight is another table than tok_emb.weight, but model.tied_head is true; set it to false for a head of its own",
        )
        del found["lm_head.weight"]


def _pieces(part: str, shapes: dict[str, tuple], config: ModelConfig) -> Iterator[Piece]:
    """The pieces of one part of the table, of the parameters that the model has."""
    for ours, theirs in _table()["parts"][part].items():
        places = range(shapes.get(ours.partition("[")[0], (0,))[0]) if "{place}" in ours else ()
        layers = range(config.num_layers) if "{layer}" in ours else ()
        for number in places or layers or (0,):
            words = {"layer": number, "place": number, "second": number + config.num_layers}
            (name, into), (other, index) = (_indexed(text.format(**words)) for text in (ours, theirs))
            if name in shapes:
                yield Piece(name, into, other, index, tuple(torch.empty(shapes[name], device="meta")[into].shape))


def _names(form: str, shapes: dict[str, tuple], config: ModelConfig) -> set[str]:
    return {piece.theirs for piece in _pieces(form, shapes, config)}


def _indexed(text: str) -> tuple[str, Index]:
    """`bank[:,0]` as a name and an index."""
    name, inside = re.fullmatch(r"([^\[]+)(?:\[([\d:,]+)\])?", text).groups()
    return name, tuple(slice(None) if part == ":" else int(part) for part in inside.split(",")) if inside else ()


def _needed(pieces: list[Piece]) -> dict[str, tuple[int, ...]]:
    """The shape of each published tensor that holds these pieces."""
    out: dict[str, tuple[int, ...]] = {}
    for piece in pieces:
        rest, shape = list(piece.shape), []
        for part in piece.index:
            shape.append(part + 1 if isinstance(part, int) else rest.pop(0))
        before = out.get(piece.theirs, ())
        out[piece.theirs] = tuple(max(pair) for pair in zip((*shape, *rest), before, strict=True)) if before else (*shape, *rest)
    return out


def _faults(found: dict[str, Tensor], pieces: list[Piece], shapes: dict[str, tuple], stack: str) -> Iterator[str]:
    """One sentence for each tensor that is missing, wrong or left over, and for each parameter that nothing fills."""
    needed, filled = _needed(pieces), {piece.ours for piece in pieces}
    for name in shapes.keys() - filled:
        yield f"{name} is a parameter of the model, but {stack} has nothing like it; set model in params.yaml to the recipe of that stack"
    for name, shape in needed.items():
        if name not in found:
            fills = sorted({piece.ours for piece in pieces if piece.theirs == name})
            yield f"{name} {list(shape)} is missing, from which {fills[0]} is read; take the checkpoint that a script of {stack} saves"
        else:
            yield from _wrong(name, found[name], shape)
    for name in found.keys() - needed.keys():
        yield (
            f"{name} {list(found[name].shape)} is no part of the model; {stack} has no such tensor, or model.features in params.yaml "
            "lacks its feature"
        )


def _wrong(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Iterator[str]:
    """A sentence if the tensor does not have this shape, a type that is read, or numbers alone."""
    has, wants = ([size for size in sizes if size != 1] for sizes in (tensor.shape, shape))
    if has != wants:
        is_transposed = len(wants) >= 2 and has == [*wants[:-2], wants[-1], wants[-2]]
        way_out = (
            "it is transposed, store (outputs, inputs)"
            if is_transposed
            else "set model and vocabulary in params.yaml to those that it was trained with"
        )
        yield f"{name} is {list(tensor.shape)} and not {list(shape)}; {way_out}"
    elif tensor.dtype not in TYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        yield f"{name} has the type {kind}; take the weights before quantization, in float32, float16 or bfloat16"
    elif not tensor.isfinite().all():
        yield f"{name} has values that are NaN or infinite; take a checkpoint of a training that did not diverge"
