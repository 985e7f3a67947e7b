"""Token shards in the contest's format: a header of 256 little-endian int32 (magic, version, count), then uint16 values.

Byte sidecars use the same format; their values are the number of text bytes per token.
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
    with open(path, "wb") as handle:
        handle.write(header(values.size))
        handle.write(values.astype("<u2").tobytes())


def header(num_values: int) -> bytes:
    """The 1,024 bytes in front of `num_values` values."""
    words = np.zeros(HEADER_BYTES // 4, "<i4")
    words[:3] = MAGIC, VERSION, num_values
    return words.tobytes()


def read(path: Path) -> np.ndarray:
    """Memory-map one shard as uint16. ValueError naming the file if magic, version or length is wrong."""
    path = Path(path)
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise ValueError(f"{path} is {size} bytes long, shorter than a shard's header of {HEADER_BYTES}; make it again")
    magic, version, count = (int(word) for word in np.fromfile(path, "<i4", 3))
    if magic != MAGIC:
        raise ValueError(f"{path} is not a token shard (magic {magic}, expected {MAGIC}); get it or make it again")
    if version != VERSION:
        raise ValueError(f"{path} has shard version {version}, this program reads version {VERSION}; get it in that version")
    if count < 0 or size != HEADER_BYTES + 2 * count:
        raise ValueError(
            f"{path} declares {count} tokens, {HEADER_BYTES + 2 * count} bytes, but has {size} bytes; "
            "it is truncated or damaged, make it again"
        )
    if count == 0:
        return np.empty(0, np.uint16)
    return np.memmap(path, "<u2", "r", HEADER_BYTES, (count,))


def is_shard(path: Path) -> bool:
    """Whether the file's ending or its first four bytes say that it is a shard."""
    with open(path, "rb") as handle:
        return Path(path).suffix == ".bin" or handle.read(4) == MAGIC.to_bytes(4, "little")


def number(path: Path) -> int:
    """The number at the end of a shard's name. ValueError if it has none."""
    digits = path.stem.rsplit("_", 1)[-1]
    if not digits.isdecimal():
        raise ValueError(f"{path} has no number at the end of its name, as fineweb_val_000000.bin has; rename or remove it")
    return int(digits)


def token_paths(folder: Path, split: str) -> list[Path]:
    """The token shards of one split, ordered by number. Sidecars match the same pattern and are left out."""
    paths = sorted((path for path in Path(folder).glob(f"*_{split}_*.bin") if "_bytes_" not in path.name), key=number)
    if not paths:
        raise ValueError(f"no token shards *_{split}_*.bin in {folder}; run: dvc repro tokenize")
    return paths


def sidecar_paths(folder: Path, split: str) -> list[Path]:
    """The byte sidecars of one split, ordered by number."""
    paths = sorted(Path(folder).glob(f"*_{split}_bytes_*.bin"), key=number)
    if not paths:
        raise ValueError(f"no byte sidecar *_{split}_bytes_*.bin in {folder}; run: dvc repro tokenize")
    return paths


def read_split(folder: Path, split: str) -> np.ndarray:
    """All tokens of one split."""
    parts = [read(path) for path in token_paths(folder, split)]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def read_sidecar(folder: Path, split: str) -> np.ndarray:
    """Bytes per token of one split, int64, aligned with `read_split`."""
    return np.concatenate([read(path) for path in sidecar_paths(folder, split)]).astype(np.int64)
