"""The only program of this repository that reads a pickle. It runs in a jail (convert.py), where it can do no harm, and is never imported.

    python unpickle.py CHECKPOINT          the tensors, on stdout, as a safetensors file

With weights_only, torch builds tensors and plain containers alone and refuses everything else. The safetensors format is a length (u64),
a JSON header with type, shape and place of each tensor, and their bytes. It is written here, because the jail has no package for it.
"""

import json
import os
import struct
import sys

import torch

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def main(path: str) -> None:
    """Write the tensors of the checkpoint to stdout, or one sentence to stderr and end with exit code 3."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the bytes
    try:
        found = tensors(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # any file may come here
        words = str(error).split("\n")[0].split(". ")[0]
        print(f"it holds more than tensors, or it is damaged ({type(error).__name__}: {words[:200]})", file=sys.stderr)
        sys.exit(3)
    header, place = {}, 0
    for name, tensor in found.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, place + size]}
        place += size
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    out.write(struct.pack("<Q", len(words)) + words)
    for tensor in found.values():
        out.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    out.flush()


def tensors(content) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint: all of it, or the only entry of it that is one."""
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} and not a state dict")
    inside = [value for value in content.values() if _is_state(value)]
    if not _is_state(content) and len(inside) == 1:
        content = inside[0]
    if not _is_state(content):
        others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
        raise ValueError(f"no single state dict; what is no tensor: {', '.join(others[:5])}")
    for name, tensor in content.items():
        if tensor.dtype not in TYPES or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is a tensor of the type {tensor.dtype}")
    return dict(content)


def _is_state(value) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


if __name__ == "__main__":
    main(sys.argv[1])
