"""How much faster does test-time training learn from 64 documents at once than from one after the other?

    python benchmarks/documents_at_once.py            nine layers of width 512, the adapters of #1855, documents of 97 and 289 tokens

Both forms of ttt_lora score documents of the same length with the same options, in turn, n times after a round that does not count: one
document after the other (`documents` of them), and all slots at once. Rates are of seconds of the clock, with all threads; beside them are
CPU seconds, which what else the machine does moves less. The scores of the documents that both have scored must agree to 1e-3 nats: their
chunks are the same where a document ends with a chunk. The bound is the rate at which all slots would go if only products of matrices took
time: torch's profiler says what they take in one more run. No order of documents can spare them.
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
    parser.add_argument("--lengths", type=int, nargs="+", default=[97, 289], help="tokens of a document (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=64, help="documents at once (default: %(default)s)")
    parser.add_argument("--group", type=int, default=8, help="slots of one pass (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=6, help="documents one after the other (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="n (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    chosen = parser.parse_args()
    from benchmarks.evaluate import full_size
    from stages.lib.node import launch

    torch.set_num_threads(chosen.threads)
    launch.keep_freed_memory()  # as evaluators run
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
    """A line with the targets per second of both forms: medians of n (least to most), their ratio in each round, and the bound."""
    generator = np.random.default_rng(length)
    tokens = generator.integers(2, model.config.vocabulary_size, chosen.slots * (length - 1) + 1)
    tokens[:: length - 1] = 1  # a document's last target is the start of the next one
    forms = {"one": (tokens[: chosen.documents * (length - 1) + 1], {}), "slots": (tokens, {"slots": chosen.slots, "group": chosen.group})}
    rates: dict[str, list[float]] = {"one": [], "slots": [], "one of CPU": [], "slots of CPU": []}
    for counts in (False,) + (True,) * chosen.rounds:
        nats = {}
        for name, (text, more) in forms.items():
            nats[name], seconds, of_cpu = score(model, text, OPTIONS | more)
            if counts:
                rates[name].append((len(text) - 1) / seconds)
                rates[f"{name} of CPU"].append((len(text) - 1) / of_cpu)
        apart = float(np.abs(nats["one"] - nats["slots"][: len(nats["one"])]).max())
        if (length - 1) % OPTIONS["chunk"] == 0 and apart > 1e-3:
            sys.exit(f"the two forms differ by {apart:.1e} nats")
    ratios = [fast / slow for slow, fast in zip(rates["one"], rates["slots"], strict=True)]
    bound = (len(tokens) - 1) / products(model, tokens, OPTIONS | forms["slots"][1]) / statistics.median(rates["one"])
    named = (("one after the other", rates["one"]), (f"{chosen.slots} at once", rates["slots"]), ("ratio", ratios))
    said = ", ".join(f"{name} {statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})" for name, found in named)
    of_cpu = statistics.median(rates["slots of CPU"]) / statistics.median(rates["one of CPU"])
    return (
        f"documents of {length - 1} targets, n = {chosen.rounds}, largest difference {apart:.0e} nats; targets per second: {said}; "
        f"ratio per CPU second {of_cpu:.1f}; ratio if only products took time {bound:.1f}"
    )


def products(model, tokens: np.ndarray, options: dict) -> float:
    """Seconds that the products of matrices take."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        score(model, tokens, options)
    names = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
    return sum(event.self_cpu_time_total for event in found.key_averages() if event.key in names) / 1e6


def score(model, tokens: np.ndarray, options: dict) -> tuple[np.ndarray, float, float]:
    """Nats in the order of the stream, seconds of the clock, and CPU seconds."""
    from stages.runtime.scoring import harness
    from stages.runtime.scoring.evaluators import ttt_lora

    evaluator = ttt_lora.Evaluator(model, **options)
    targets = evaluator.coding_order.targets(tokens) if evaluator.coding_order else np.arange(1, len(tokens))
    started, of_cpu, nats = time.perf_counter(), time.process_time(), np.empty(len(targets))
    nats[targets - 1] = harness.score(evaluator, tokens[np.append(0, targets)]).nats
    return nats, time.perf_counter() - started, time.process_time() - of_cpu


if __name__ == "__main__":
    main()
