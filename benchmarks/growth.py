"""How what reads all of val, or much of train, grows with it: each part without a network, at two sizes.

    python benchmarks/growth.py                   seconds of one core and bytes of memory per million tokens, and the exponent of the growth
    python benchmarks/growth.py --write           and keeps them in docs/rehearsals.json, for the projection of stages/recipes/projection.py

The exponent is ln(seconds of the larger / seconds of the smaller) / ln(ratio of sizes): about 1 for work in proportion to the text, 2 for
work that would take days on the contest's 47,853,344 or 62,021,846 val tokens. Seconds are those of the processor, so other work does not
count. Memory is what Python and numpy allocate at most during the part (tracemalloc), beyond what was there before.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import itertools
import json
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.rehearse import KEPT
from stages.audit import shingles
from stages.audit.checks import memorization
from stages.audit.reference_model import Trigram
from stages.lib.node import files
from stages.lib.text import accounting
from stages.lib.tokens import splits
from stages.runtime.base import plugin
from stages.runtime.scoring import harness, streaming
from stages.runtime.text.tokenizer import BOS, PURE_BYTE, Tokenizer
from stages.runtime.tokens import shards

DOCUMENT = 957  # tokens of a document: 47,853,344 / 50,000
WINDOWS = {"window": 2048, "stride": 64, "batch": 32}


class Silent(plugin.load("evaluators", "sliding").Evaluator):
    """The windows of `sliding` at its published sizes, without a network."""

    def predict(self, seen, chunk):
        return torch.zeros(chunk[-1].last - chunk[0].first + 1, 2)


def made(tokens: int, generator: np.random.Generator) -> np.ndarray:
    """A stream of random byte tokens in documents of DOCUMENT tokens."""
    stream = generator.integers(4, 260, tokens)
    stream[::DOCUMENT] = BOS
    return stream.astype(np.uint16)


def parts(stream: np.ndarray, folder: Path) -> dict[str, Callable[[], object]]:
    """The parts by name; each is called once. They work on `stream`, whose shard and sidecar lie in `folder`."""
    tokenizer = Tokenizer(json.dumps(PURE_BYTE).encode())
    split = splits.read(folder, "val", sidecar=True)
    edges = [*np.flatnonzero(stream == BOS).tolist(), len(stream)]
    numbers = stream % 2
    text = (stream % 96 + 32).astype(np.uint8).tobytes()

    def prepare():
        tokens = shards.read(folder / "fineweb_val_000000.bin")
        accounting.check_stream(tokenizer, tokens, where="growth", at_start=True)
        return files.sha256(folder / "fineweb_val_000000.bin"), tokenizer.byte_counts(tokens).sum()

    def ledger():
        found = splits.read(folder, "val", sidecar=True)
        np.save(folder / "ledger.npy", np.zeros(len(found.tokens)))
        return files.sha256(folder / "ledger.npy"), np.load(folder / "ledger.npy").sum()

    def score():
        return harness.score(Silent(None, **WINDOWS), numbers)

    def push():
        known = streaming.Stream(Silent(None, **WINDOWS), len(numbers) - 1, 1)
        for start in range(1, len(numbers), 1 << 16):
            known.push(numbers[start : start + (1 << 16)].tolist())

    def byte_count():
        counts = split.byte_counts
        return all(np.array_equal(counts[start:end], tokenizer.byte_counts(stream[start:end])) for start, end in itertools.pairwise(edges))

    def overlap():
        runs, _ = shingles.of_documents(stream.astype(np.int64), np.array(edges[:-1]))
        return shingles.present(runs, [stream])

    def text_compressors():
        import lzma

        return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))

    return {
        "prepare": prepare,
        "ledger": ledger,
        "harness": score,
        "push": push,
        "byte_count": byte_count,
        "overlap": overlap,
        "trigrams": lambda: Trigram(stream, 260),
        "memorization": lambda: memorization.sample(split, 40_000, np.random.default_rng(11)),
        "text_compressors": text_compressors,
    }


def measure(tokens: int) -> dict[str, tuple[float, int]]:
    """(seconds of the processor, bytes of memory) of each part on so many tokens."""
    out = {}
    stream = made(tokens, np.random.default_rng(0))
    with tempfile.TemporaryDirectory(prefix="caddie-growth-") as name:
        folder, counts = Path(name), (stream != BOS).astype(np.uint16)
        shards.write(folder / "fineweb_val_000000.bin", stream)
        shards.write(folder / "fineweb_val_bytes_000000.bin", counts)
        facts = {"tokens": tokens, "bytes": int(counts.sum()), "vocabulary_size": 260, "text_sha256": "", "tokenizer_sha256": ""}
        files.write_json(folder / "meta.json", facts)
        for part, run in parts(stream, folder).items():
            started = time.process_time()
            run()
            seconds = time.process_time() - started
            tracemalloc.start()
            run()
            out[part] = seconds, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return out


def growth(sizes: tuple[int, int]) -> dict[str, dict[str, float]]:
    """By part: seconds and bytes per million tokens between the two sizes, and the exponent."""
    small, large = (measure(size) for size in sizes)
    millions = (sizes[1] - sizes[0]) / 1e6
    return {
        part: {
            "seconds": round(max(0.0, (large[part][0] - small[part][0]) / millions), 4),
            "bytes": round(max(0.0, (large[part][1] - small[part][1]) / millions)),
            "exponent": round(math.log(large[part][0] / max(small[part][0], 1e-9)) / math.log(sizes[1] / sizes[0]), 2),
        }
        for part in small
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs=2, default=(1_000_000, 4_000_000), help="the two sizes (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="keep the result in docs/rehearsals.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = growth(tuple(chosen.tokens))
    for part, row in found.items():
        print(f"{part:18} {row['seconds']:9.4f} s {row['bytes'] / 1e6:9.1f} MB per million tokens, exponent {row['exponent']:.2f}")
    if chosen.write:
        kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
        files.write_json(KEPT, dict(sorted((kept | {"growth": found}).items())))


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/growth.py"):
        main()
