"""What does the evaluator `memory` gain, part by part, and what does it cost?

    python benchmarks/memory.py                                  the trained model of artifacts/ema on holdout: a row for each option
    python benchmarks/memory.py --documents wikipedia.jsonl.xz --targets 60000       other text

The network's rows are computed once; every row of the table then runs the evaluator on them, so that a row's CPU seconds are those of the
memory alone. Holdout is the text to choose options on; val is for the final score only.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import json
import lzma
import time

import numpy as np
import torch

OPTIONS = {"order": 8, "document": 3, "reset_at": 1, "discount": 0.7, "strength": -0.5, "rate": 0.1, "every": 16, "contexts": None}
VARIANTS = {
    "as recommended": {},
    "without contexts of the document": {"document": 0},
    "with 1 of them (no token)": {"document": 1},
    "with 2 (0 and 1 tokens)": {"document": 2},
    "with 5": {"document": 5},
    "order 3": {"order": 3},
    "order 4": {"order": 4},
    "order 6": {"order": 6},
    "order 12": {"order": 12},
    "discount .5": {"discount": 0.5, "strength": -0.3},
    "discount .9": {"discount": 0.9},
    "strength 0": {"strength": 0.0},
    "strength .5": {"strength": 0.5},
    "equal weights": {"rate": 0.0},
    "rate .02": {"rate": 0.02},
    "rate .05": {"rate": 0.05},
    "rate .2": {"rate": 0.2},
    "weights learn after each target": {"every": 1},
    "weights learn after 256 targets": {"every": 256},
    "at most 400,000 contexts": {"contexts": 400_000},
    "at most 100,000 contexts": {"contexts": 100_000},
}


class Rows:
    """In place of the network: its rows, computed before. Chunks of `batch` targets."""

    def __init__(self, rows: torch.Tensor, batch: int):
        self.rows, self.batch = rows, batch

    def chunks(self, num_targets: int):
        from stages.runtime.tokens import windows

        for first in range(1, num_targets + 1, self.batch):
            last = min(first + self.batch - 1, num_targets)
            yield [windows.Window(first - 1, last + 1 - first, first, last)]

    def predict(self, seen, chunk) -> torch.Tensor:
        return self.rows[chunk[0].first - 1 : chunk[-1].last]

    def learn(self, seen, chunk) -> None:
        pass


def stream(arguments: argparse.Namespace) -> tuple[np.ndarray, int]:
    """Token ids, the first of which is no target, and the bytes that the others stand for."""
    from stages.lib.tokens import splits

    if arguments.documents is None:
        split = splits.read(arguments.artifacts / f"tokenize/{arguments.split}", arguments.split, sidecar=True)
        tokens, byte_counts = split.tokens, split.byte_counts
    else:
        from stages.lib.text.encoder import Encoder

        texts, size = [], 0
        with (lzma.open if arguments.documents.suffix == ".xz" else open)(arguments.documents, "rt", encoding="utf-8") as lines:
            for line in lines:
                texts.append(json.loads(line)["text"])
                size += len(texts[-1])
                if size > 8 * arguments.targets:  # no tokenizer here has longer tokens on average
                    break
        encoded = Encoder((arguments.artifacts / "vocabulary/tokenizer.model").read_bytes()).encode(texts)
        tokens, byte_counts = encoded.ids, encoded.byte_counts
    tokens = np.asarray(tokens[: arguments.targets + 1], np.int64)
    return tokens, int(np.asarray(byte_counts[1 : len(tokens)]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=ROOT / "artifacts", help="artifacts of a run (default: this project's)")
    parser.add_argument("--split", default="holdout", help="train, holdout or val (default: %(default)s)")
    parser.add_argument("--documents", type=Path, help="a .jsonl file (also .xz) of other text, instead of a split")
    parser.add_argument("--targets", type=int, default=1_000_000, help="the first targets of the text (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="targets of a chunk (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="words that a row's name must contain one of")
    arguments = parser.parse_args()
    from stages.lib.node import tensors
    from stages.runtime.scoring import harness
    from stages.runtime.scoring.evaluators import memory, sliding
    from stages.runtime.weights import dequantize

    torch.set_num_threads(1)
    tokens, num_bytes = stream(arguments)
    named, facts = tensors.load(arguments.artifacts / "ema/model.safetensors")
    model = dequantize.build(named, facts["model"])
    network = sliding.Evaluator(model, window=128, stride=64, batch=8)
    seen, rows = torch.from_numpy(tokens), torch.empty(len(tokens) - 1, model.config.vocabulary_size)
    for chunk in network.chunks(len(tokens) - 1):
        rows[chunk[0].first - 1 : chunk[-1].last] = network.predict(seen[: chunk[-1].last + 1], chunk).detach()
    alone = harness.score(Rows(rows, arguments.batch), tokens).bits_per_byte(num_bytes)
    print(f"{len(tokens) - 1:,} targets, {num_bytes:,} bytes; MB are those of the counts\n")
    print("| | bits per byte | against as recommended | targets per CPU second | MB |\n|---|---:|---:|---:|---:|")
    print(f"| network alone | {alone:.4f} | | | |", flush=True)
    base = None
    for name, changes in VARIANTS.items():
        if arguments.only and base is not None and not any(word in name for word in arguments.only):
            continue
        evaluator = memory.Evaluator(model, network="streaming", window=128, block=1, **(OPTIONS | changes))
        evaluator.network = Rows(rows, arguments.batch)
        spent = [0.0]
        for method in ("predict", "learn"):
            setattr(evaluator, method, timed(getattr(evaluator, method), spent))
        score = harness.score(evaluator, tokens).bits_per_byte(num_bytes)
        base = base or score
        table = evaluator.state.table
        print(
            f"| {name} | {score:.4f} | {score - base:+.4f} | {(len(tokens) - 1) / spent[0]:,.0f} | {table.nbytes / 1e6:.0f} |", flush=True
        )


def timed(method, spent: list[float]):
    def call(*arguments):
        started = time.process_time()
        try:
            return method(*arguments)
        finally:
            spent[0] += time.process_time() - started

    return call


if __name__ == "__main__":
    main()
