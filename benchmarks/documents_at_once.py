"""How much faster does test-time training learn from 64 documents at once than from one after the other?

    python benchmarks/documents_at_once.py            nine layers of width 512, the adapters of #1855, documents of 97, 289 and 961 tokens

Both forms of ttt_lora score documents of the same length with the same options, in turn, n times: one document after the other (`documents`
of them), and all slots at once. The seconds are CPU seconds of the process, which what else the machine does moves little. The scores of
the documents that both have scored must agree to 1e-3 nats: their chunks are the same where a document ends with a chunk.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch

OPTIONS = {
    "window": 2048,
    "chunk": 48,
    "rank": 80,
    "alpha": 144.0,
    "targets": ["query", "key", "value", "output", "up", "down", "head"],
    "learning_rate": 1e-4,
    "beta1": 0.0,
    "beta2": 0.99,
    "weight_decay": 0.5,
    "reset_at": 1,
    "seed": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[97, 289, 961], help="tokens of a document (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=64, help="documents at once (default: %(default)s)")
    parser.add_argument("--group", type=int, default=8, help="slots of one pass (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=2, help="documents one after the other (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="n (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    chosen = parser.parse_args()
    from benchmarks.evaluate import full_size

    torch.set_num_threads(chosen.threads)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {chosen.threads} threads, torch {torch.__version__}"
    )
    model = full_size()
    with torch.no_grad():  # its projections and tables start without values, and both forms must have something to differ in
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.05)
    for length in chosen.lengths:
        print(compared(model, length, chosen), flush=True)


def compared(model, length: int, chosen: argparse.Namespace) -> str:
    """A line with the targets per CPU second of both forms: medians of n (least to most), and their ratio in each round."""
    generator = np.random.default_rng(length)
    tokens = generator.integers(2, model.config.vocabulary_size, chosen.slots * (length - 1) + 1)
    tokens[:: length - 1] = 1  # a document's last target is the start of the next one
    forms = {"one": (tokens[: chosen.documents * (length - 1) + 1], {}), "slots": (tokens, {"slots": chosen.slots, "group": chosen.group})}
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(chosen.rounds):
        nats = {}
        for name, (text, more) in forms.items():
            nats[name], seconds = score(model, text, OPTIONS | more)
            rates[name].append((len(text) - 1) / seconds)
        apart = float(np.abs(nats["one"] - nats["slots"][: len(nats["one"])]).max())
        if (length - 1) % OPTIONS["chunk"] == 0 and apart > 1e-3:
            sys.exit(f"the two forms differ by {apart:.1e} nats")
    ratios = [fast / slow for slow, fast in zip(rates["one"], rates["slots"], strict=True)]
    said = ", ".join(
        f"{name} {statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})"
        for name, found in (("one after the other", rates["one"]), (f"{chosen.slots} at once", rates["slots"]), ("ratio", ratios))
    )
    return f"documents of {length - 1} targets, n = {chosen.rounds}, largest difference {apart:.0e} nats; targets per CPU second: {said}"


def score(model, tokens: np.ndarray, options: dict) -> tuple[np.ndarray, float]:
    """Nats in the order of the stream, and CPU seconds."""
    from stages.runtime.scoring import harness
    from stages.runtime.scoring.evaluators import ttt_lora

    evaluator = ttt_lora.Evaluator(model, **options)
    targets = evaluator.coding_order.targets(tokens) if evaluator.coding_order else np.arange(1, len(tokens))
    started, nats = time.process_time(), np.empty(len(targets))
    nats[targets - 1] = harness.score(evaluator, tokens[np.append(0, targets)]).nats
    return nats, time.process_time() - started


if __name__ == "__main__":
    main()
