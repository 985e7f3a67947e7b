"""The quantized model that is the input of all codecs and coders: reading, comparison and sizes. Works without torch, so it starts fast."""

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stages.lib.blob import entropy
from stages.runtime.blob import header, matrix_context
from stages.runtime.blob.container import Model

SIDE = ("scales", "step", "row_steps", "column_steps", "left", "left_scales", "right", "right_scales")  # of a quantized matrix


def read(path: Path) -> tuple[Model, dict]:
    """(model, facts) of a quantized model. ValueError naming the file if it is damaged."""
    try:
        with safe_open(path, "np") as handle:
            facts = json.loads((handle.metadata() or {})["caddie"])
            tensors = {name: handle.get_tensor(name) for name in facts["order"]}
            config = facts["model"]
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or is not a quantized model ({error}); run: dvc repro quantize") from None
    return Model(tensors, config, {name: scheme for name, scheme in facts.get("quantization", {}).items() if scheme}), facts


def same(one: Model, other: Model) -> bool:
    """Whether two models are equal to the bit, whatever the order of their tensors."""
    return (
        one.config == other.config
        and one.schemes == other.schemes
        and one.tensors.keys() == other.tensors.keys()
        and all(
            one.tensors[name].dtype == array.dtype
            and one.tensors[name].shape == array.shape
            and one.tensors[name].tobytes() == array.tobytes()
            for name, array in other.tensors.items()
        )
    )


def is_codes(name: str) -> bool:
    return name.endswith(matrix_context.CODES)


def is_side(name: str, tensors: dict) -> bool:
    """Whether `name` is an array of a quantized matrix other than its codes."""
    base, _, suffix = name.rpartition(".")
    return suffix in SIDE and base + matrix_context.CODES in tensors


def num_weights(blob: bytes) -> int:
    """The number of weights that a blob declares: every tensor but the steps, scales and corrections of quantized matrices."""
    shapes = {entry.name: entry.shape for section in header.read(blob).sections for entry in section.tensors}
    orders = {f"{name}.order" for name in shapes}  # the permutations of sort_rows
    return sum(math.prod(shape) for name, shape in shapes.items() if not is_side(name, shapes) and name not in orders)


def sizes(model: Model) -> dict:
    """The size before compression: numbers of weights, raw bytes, and the order-0 entropy of the codes of all quantized matrices."""
    tensors = model.tensors
    codes = {name: array for name, array in tensors.items() if is_codes(name)}
    quantized = sum(array.size for array in codes.values())
    rest = {name: array for name, array in tensors.items() if name not in codes}
    total = sum(map(entropy.bits, codes.values()))
    return {
        "weights": quantized + sum(array.size for name, array in rest.items() if not is_side(name, tensors)),
        "quantized_weights": quantized,
        "raw_bytes": sum(array.nbytes for array in tensors.values()),
        "entropy_bytes": math.ceil(total / 8),
        "entropy_bits_per_weight": total / quantized if quantized else None,
        "left_out_bytes": sum(array.nbytes for array in rest.values()),  # not in the entropy: scales, steps, float16 tensors, as stored
    }
