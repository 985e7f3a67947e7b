"""Token shards in the field's format: a header of 256 little-endian int32 (magic, version, count), then uint16 values.

Byte sidecars use the same container; there the payload is the number of text bytes per token.
Source: the official export of parameter-golf; modded-nanogpt's fineweb.py.
"""

from pathlib import Path

import numpy as np

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
MAX_TOKENS = 2**31 - 1


def write(path: Path, values: np.ndarray) -> None:
    """Write one shard. ValueError if a value does not fit in uint16."""
    values = np.asarray(values)
    if values.size > MAX_TOKENS or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise ValueError(f"{path}: a shard holds at most {MAX_TOKENS} values between 0 and 65535")
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, VERSION, values.size
    with open(path, "wb") as handle:
        handle.write(header.tobytes())
        handle.write(values.astype("<u2").tobytes())


def read(path: Path) -> np.ndarray:
    """Memory-map one shard as uint16. ValueError naming the file if magic, version or length is not right."""
    path = Path(path)
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise ValueError(f"{path} is {size} bytes long, shorter than a shard's header of {HEADER_BYTES}; make it again")
    header = np.fromfile(path, "<i4", 256)
    if header[0] != MAGIC:
        raise ValueError(f"{path} is not a token shard (magic {header[0]}, expected {MAGIC})")
    if header[1] != VERSION:
        raise ValueError(f"{path} has shard version {header[1]}; this program reads version {VERSION}")
    if header[2] < 0 or size != HEADER_BYTES + 2 * int(header[2]):
        raise ValueError(f"{path} declares {header[2]} tokens, {HEADER_BYTES + 2 * int(header[2])} bytes, but has {size} bytes; "
                         "it is truncated or damaged, make it again")
    if header[2] == 0:
        return np.empty(0, np.uint16)
    return np.memmap(path, "<u2", "r", HEADER_BYTES, (int(header[2]),))


def read_split(folder: Path, split: str) -> np.ndarray:
    """All tokens of one split, shards in name order. The sidecars match the same glob and are left out."""
    paths = sorted(p for p in Path(folder).glob(f"*_{split}_*.bin") if "_bytes_" not in p.name)
    if not paths:
        raise ValueError(f"no token shards *_{split}_*.bin in {folder}; run: dvc repro tokenize")
    return np.concatenate([read(path) for path in paths]) if len(paths) > 1 else read(paths[0])


def read_sidecar(folder: Path, split: str) -> np.ndarray:
    """Bytes per token of one split, int64, aligned with `read_split`."""
    paths = sorted(Path(folder).glob(f"*_{split}_bytes_*.bin"))
    if not paths:
        raise ValueError(f"no byte sidecar *_{split}_bytes_*.bin in {folder}; run: dvc repro tokenize")
    return np.concatenate([read(path) for path in paths]).astype(np.int64)
