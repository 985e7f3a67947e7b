"""How fast each loader makes batches: tokens per second on one core, beside the copy that none of them can do without.

    python benchmarks/loader.py                                    4 shards of 25 million tokens, 7 runs
    python benchmarks/loader.py --shard-tokens 2000000 --runs 3    a quick look

Synthetic shards (documents of 1,000 tokens on average) are written to a temporary folder in the field's format and memory-mapped;
the page cache is warm. A run is as many steps as read about 20 million tokens, continuing where the last one ended. "copy" converts
as many consecutive uint16 tokens to int64 in batches of the same size: the bound.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np

from stages.lib.tokens.loaders import coprime, packed, sequential, shuffled
from stages.lib.tokens.stream import Stream
from stages.runtime.tokens import shards

GEOMETRIES = ((2048, 786_432), (1024, 524_288), (1024, 16_384), (128, 2048))  # (sequence_length, batch_tokens): #1060, baseline, small
LOADERS = {"sequential": sequential, "coprime": coprime, "shuffled": shuffled, "packed": packed}
RUN_TOKENS = 20_000_000
VOCABULARY, DOCUMENT_TOKENS = 8192, 1000


def synthetic(folder: Path, *, num_shards: int, shard_tokens: int) -> Stream:
    """Uniform ids, a BOS at one position in a thousand and at the start."""
    generator = np.random.default_rng(0)
    for number in range(num_shards):
        tokens = generator.integers(2, VOCABULARY, shard_tokens, np.uint16)
        tokens[generator.integers(0, shard_tokens, shard_tokens // DOCUMENT_TOKENS)] = packed.BOS
        tokens[0] = packed.BOS
        shards.write(folder / f"fineweb_train_{number:06d}.bin", tokens)
    return Stream([shards.read(path) for path in shards.token_paths(folder, "train")], name=str(folder), vocabulary_size=VOCABULARY)


def copy(stream: Stream, batch_tokens: int) -> Callable[[int], None]:
    """One batch of the bound: a fresh int64 array filled from consecutive tokens of one shard."""
    shard = stream.shards[0]
    places = len(shard) // batch_tokens

    def make(step: int) -> None:
        start = step % places * batch_tokens
        np.empty(batch_tokens, np.int64)[:] = shard[start : start + batch_tokens]

    return make


def speeds(make: Callable[[int], object], batch_tokens: int, runs: int) -> list[float]:
    """Million tokens per second of each run, after one that does not count."""
    steps, out = max(1, RUN_TOKENS // batch_tokens), []
    for run in range(runs + 1):
        started = time.perf_counter()
        for step in range(run * steps, (run + 1) * steps):
            make(step)
        out.append(steps * batch_tokens / (time.perf_counter() - started) / 1e6)
    return out[1:]


def hardware() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return (
        f"one core of {names[0] if names else platform.processor()}, {platform.system()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=4, help="number of shards (default: 4)")
    parser.add_argument("--shard-tokens", type=int, default=25_000_000, help="tokens per shard (default: 25,000,000)")
    parser.add_argument("--runs", type=int, default=7, help="runs that count (default: 7)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("| loader | sequence_length | batch_tokens | million tokens/s, median | min .. max | of the copy |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="caddie-") as folder:
        stream = synthetic(Path(folder), num_shards=arguments.shards, shard_tokens=arguments.shard_tokens)
        for sequence_length, batch_tokens in GEOMETRIES:
            makers = {"copy": copy(stream, batch_tokens)}
            for name, module in LOADERS.items():
                loader = module.Loader(stream, sequence_length=sequence_length, batch_tokens=batch_tokens, seed=1, section="train")
                makers[name] = loader.batch
            bound = None
            for name, make in makers.items():
                found = speeds(make, batch_tokens, arguments.runs)
                median = statistics.median(found)
                bound = bound or median
                print(
                    f"| {name} | {sequence_length} | {batch_tokens:,} | {median:,.0f} | {min(found):,.0f} .. {max(found):,.0f} | "
                    f"{median / bound:.0%} |",
                    flush=True,
                )
    print(
        f"\nn = {arguments.runs} runs of {RUN_TOKENS // 10**6} million tokens, {arguments.shards} shards of {arguments.shard_tokens:,} "
        f"tokens, {hardware()}, load {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/loader.py"):
        main()
