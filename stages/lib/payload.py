"""The quantized model as the bytes that codecs compete on. No torch: compressing and packing start quickly."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stages.runtime import container


def read(path: Path) -> tuple[bytes, dict, dict]:
    """(payload, tensors, facts) of a quantized model. ValueError naming the file if it is damaged."""
    try:
        with safe_open(path, "np") as handle:
            facts = json.loads((handle.metadata() or {})["caddie"])
            tensors = {name: handle.get_tensor(name) for name in facts["order"]}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or is not a quantized model ({error}); run: dvc repro quantize") from None
    return container.serialise(tensors, facts["model"]), tensors, facts
