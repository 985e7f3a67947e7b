"""Named tensors with a JSON configuration in a safetensors file. Stages pass weights to each other this way; nothing is pickled."""

import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stages.lib.node import access_log
from stages.lib.node.files import atomic

KEY = "caddie"  # a single metadata entry, because safetensors does not fix the order of several and the bytes must be repeatable


def save(path: Path, tensors: dict[str, torch.Tensor], config: dict) -> None:
    """Write atomically. Equal tensors and configuration give equal bytes."""
    with atomic(path) as partial:
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata={KEY: json.dumps(config, sort_keys=True)}
            )
        except SafetensorError as error:  # it has the number of the system's error in its text alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), str(error), str(path)) from None


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and configuration. ValueError naming the file if it is damaged or was not written by `save`."""
    access_log.report(path)  # safetensors opens the file outside of Python
    try:
        with safe_open(path, "pt") as handle:
            config = json.loads((handle.metadata() or {})[KEY])
            return {name: handle.get_tensor(name) for name in handle.keys()}, config  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or was not written by Caddie ({error}); rerun the stage that makes it") from None
