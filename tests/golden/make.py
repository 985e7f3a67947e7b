"""Add the golden blobs that are not there yet; one that is there is never written again, it must be read for ever.

python -m tests.golden.make
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from stages.lib.blob.grouping import Run
from stages.runtime.base import plugin
from stages.runtime.blob import container
from stages.runtime.blob.container import Model

FOLDER = Path(__file__).parent
INDEX = FOLDER / "contents.json"
BROTLI = {"codec": "brotli", "filters": [], "options": {"quality": 11, "window_bits": 24}}
WHOLE = {
    "raw": {},
    "zlib": {"level": 9},
    "zstd": {"level": 22, "long": True},
    "lzma": {"preset": 9, "extreme": True},
    "brotli": {"quality": 11, "window_bits": 24},
    "lrzip": {"level": 9},
    "zpaq": {"method": 5},
    "zipnn": {"dtype": "float32"},
}
FILTERS = {
    "byte_shuffle": {"byte_shuffle": {"stride": 3}},
    "delta": {"delta": {"stride": 2}},
    "transpose": "transpose",
    "sort_rows": "sort_rows",
}


def model() -> Model:
    """A small model with every kind of array; its numbers come from integer arithmetic alone."""

    def codes(rows: int, columns: int, spread: int, dtype: str) -> np.ndarray:
        values = np.arange(rows * columns, dtype=np.int64)
        mixed = (values * 2654435761 + 12345) % 4294967296
        return sum((mixed >> shift) % spread - spread // 2 for shift in (3, 9, 17)).astype(dtype).reshape(rows, columns)

    tensors = {
        "blocks.0.mlp.up.weight.codes": codes(24, 16, 7, "int8"),
        "blocks.0.mlp.down.weight.codes": codes(16, 24, 9, "int8"),
        "blocks.0.attention.query.weight.codes": codes(16, 16, 5, "int8"),
        "embedding.weight.codes": codes(40, 16, 400, "int16"),
        "bigram_hash.table.weight.codes": codes(7, 5, 100_000, "int32"),
        "blocks.0.mlp.up.weight.scales": (np.arange(1, 25) / 64).astype(np.float16),
        "blocks.0.mlp.down.weight.scales": (np.arange(1, 33).reshape(16, 2) / 32).astype(np.float16),
        "blocks.0.attention.query.weight.scales": np.arange(40, 56).astype(np.uint8),
        "blocks.0.attention.query.weight.step": np.array(0.25, np.float32),
        "embedding.weight.step": np.array(0.125, np.float32),
        "embedding.weight.row_steps": (np.arange(40) % 9 - 4).astype(np.int8),
        "embedding.weight.column_steps": (np.arange(16) % 5 - 2).astype(np.int8),
        "bigram_hash.table.weight.scales": np.full(7, 0.5, np.float16),
        "blocks.0.mlp.up.weight.left": codes(24, 2, 5, "int8"),
        "blocks.0.mlp.up.weight.left_scales": np.array([0.5], np.float16),
        "blocks.0.mlp.up.weight.right": codes(2, 16, 5, "int8"),
        "blocks.0.mlp.up.weight.right_scales": np.array([0.25, 0.5], np.float16),
        "blocks.0.mlp_scale": np.linspace(-1, 1, 16).astype(np.float16),
        "empty": np.zeros((0, 3), np.float16),
    }
    config = {"width": 16, "features": {"bigram_hash": {"scale": 0.05}}, "name": "größe"}
    return Model(
        tensors,
        config,
        {"embedding.weight": {"trellis": 8, "gain": True}, "blocks.0.mlp.down.weight": {"rotation": {"block": 8, "seed": 3}}},
    )


def runs() -> dict[str, dict]:
    """By file name: every codec over everything, every filter, every coder."""
    made = {f"codec_{codec}": {"codec": codec, "filters": [], "options": options} for codec, options in WHOLE.items()}
    made |= {f"filter_{name}": BROTLI | {"filters": [filter]} for name, filter in FILTERS.items()}
    made["filter_bit_pack"] = {
        "filters": [],
        "groups": {"up": {"codec": "raw", "filters": ["sort_rows", "transpose", {"bit_pack": {"bits": 5}}], "options": {}}, "rest": BROTLI},
    }
    made |= {
        f"coder_{coder}": {"filters": [], "groups": {"codes": {"coder": coder, "filters": [], "options": {}}, "rest": BROTLI}}
        for coder in plugin.names("coders")
    }
    return made


def content(model: Model) -> str:
    """sha256 of all that a blob holds, in the order of the names."""
    digest = hashlib.sha256(json.dumps([model.config, model.schemes], sort_keys=True).encode())
    for name, array in sorted(model.tensors.items()):
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def main() -> None:
    """Write what is missing."""
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    for name, values in runs().items():
        if f"v2_{name}.blob" not in index:
            run = Run.from_params(values, name)
            (FOLDER / f"v2_{name}.blob").write_bytes(container.pack(model(), list(run.codings(model()).values())))
            index[f"v2_{name}.blob"] = content(model())
    INDEX.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
