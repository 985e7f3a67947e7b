"""The weights in a file that `python -m stages.adopt.networks` wrote, as a state dict of float32 tensors under the checkpoint's names.

    from stages.adopt.networks.restore import state_dict
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(state_dict("model.zip"), strict=False)
    model.tie_weights()

The file is a zip of blobs (docs/artifact-format.md), one for the tables and at least one for each layer; nothing is unpickled. A tied head
is in it once. Needs what is below stages/runtime, and not transformers.
"""

import zipfile
from pathlib import Path

import torch

from stages.runtime.blob import container
from stages.runtime.weights import dequantize


def state_dict(path: Path | str) -> dict[str, torch.Tensor]:
    """All weights. ValueError with one sentence if the file is damaged."""
    out: dict[str, torch.Tensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            blobs = [archive.read(name) for name in archive.namelist() if name.endswith(".blob")]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); make it again with: python -m stages.adopt.networks") from None
    for blob in blobs:
        model = container.unpack(blob)
        for name, weight in dequantize.weights(model.tensors, model.schemes).items():
            out[name] = weight.T.contiguous() if name in model.config["transposed"] else weight
    return out
