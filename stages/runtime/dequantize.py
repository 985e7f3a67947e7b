"""Integers and scales back to weights: W[i, j] = scale[i] * code[i, j] in float32.

A quantized matrix `name` is stored as `name.codes` (int8) and `name.scales` (float16, one per row); everything else is
stored as float16 under its own name.
"""

import numpy as np
import torch

from .container import ArtifactError
from .model.config import ModelConfig
from .model.gpt import GPT

CODES, SCALES = ".codes", ".scales"


def weights(stored: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """float32 weights by parameter name. ArtifactError if codes and scales do not pair up."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(CODES):
            base = name.removesuffix(CODES)
            scales = stored.get(base + SCALES)
            if tensor.ndim != 2 or tensor.dtype != np.int8 or base in stored:
                raise ArtifactError(f"{name} must be an int8 matrix, and {base} not stored twice; the blob is damaged, make it again")
            if scales is None or scales.shape != tensor.shape[:1]:
                raise ArtifactError(f"matrix {base} has no scale for each of its rows; the blob is damaged, make it again")
            out[base] = torch.from_numpy(tensor.astype(np.float32) * scales.astype(np.float32)[:, None])
        elif name.endswith(SCALES):
            if name.removesuffix(SCALES) + CODES not in stored:
                raise ArtifactError(f"scales {name} have no codes; the blob is damaged, make it again")
        else:
            out[name] = torch.from_numpy(tensor.astype(np.float32))
    return out


def build(state: dict[str, torch.Tensor], config: dict) -> GPT:
    """The model, in eval mode, with exactly these weights. ArtifactError if a name or shape is not the configuration's."""
    architecture = ModelConfig.from_dict(config)
    if architecture.num_layers > len(state):  # before a module is built for each of them
        raise ArtifactError(f"the configuration has {architecture.num_layers} layers, the file {len(state)} tensors; it is damaged")
    with torch.device("meta"):
        model = GPT(architecture)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(f"weight {name} has shape {found.get(name)}, the configuration asks for {expected.get(name)}")
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
