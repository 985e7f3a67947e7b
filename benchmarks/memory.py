"""What does the evaluator `memory` gain, part by part, on several trained models and texts, and what does it cost?

    python benchmarks/memory.py                                  the model of artifacts/ema on holdout: a row for each option
    python benchmarks/memory.py --revisions A B C                the models of these experiments (of benchmarks/default_run.py, for example)
    python benchmarks/memory.py --texts FILE.jsonl[.xz] ...      other text beside holdout
    python benchmarks/memory.py --write                          put the table into docs/memory.md

The network's rows are computed once for each model and text; every row of the table then runs the evaluator on them, so CPU seconds are
those of the memory alone. Holdout is the text to choose options on; val is for the final score only.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import datetime
import json
import lzma
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import torch

PAGE = ROOT / "docs/memory.md"
START, END = "<!-- ablation: benchmarks/memory.py --write -->", "<!-- end of ablation -->"
WITHOUT = "the network alone"
VARIANTS = {  # what differs from the options of params.yaml
    "as in params.yaml": {},
    "not primed": {"primed": 0},
    "primed to order 1": {"primed": 1},
    "primed to order 2": {"primed": 2},
    "primed to order 4": {"primed": 4},
    "no contexts of the document": {"document": 0},
    "1 of them (no token)": {"document": 1},
    "2 of them (0 and 1 tokens)": {"document": 2},
    "order 4": {"order": 4},
    "order 12": {"order": 12},
    "discount .6": {"discount": 0.6},
    "discount .8": {"discount": 0.8},
    "strength 0": {"strength": 0.0},
    "equal weights (rate 0)": {"rate": 0.0},
    "rate .05": {"rate": 0.05},
    "rate .2": {"rate": 0.2},
    "weights learn after each target": {"every": 1},
    "at most 1,000,000 contexts": {"contexts": 1_000_000},
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


def streams(arguments: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, int]]:
    """Name, token ids, the first of which is no target, and the bytes that the others stand for, of holdout and of each text."""
    from stages.lib.text.encoder import Encoder
    from stages.lib.tokens import splits

    split = splits.read(arguments.artifacts / "tokenize/holdout", "holdout", sidecar=True)
    encoder = Encoder((arguments.artifacts / "vocabulary/tokenizer.model").read_bytes())
    yield "holdout", *_first(split.tokens, split.byte_counts, arguments.targets)
    for path in arguments.texts:
        texts, size = [], 0
        with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                texts.append(json.loads(line)["text"])
                size += len(texts[-1])
                if size > 8 * arguments.targets:  # no tokenizer here has longer tokens on average
                    break
        encoded = encoder.encode(texts)
        yield path.name.partition(".")[0], *_first(encoded.ids, encoded.byte_counts, arguments.targets)


def _first(tokens, byte_counts, targets: int) -> tuple[np.ndarray, int]:
    tokens = np.asarray(tokens[: targets + 1], np.int64)
    return tokens, int(np.asarray(byte_counts[1 : len(tokens)]).sum())


def models(arguments: argparse.Namespace) -> Iterator[torch.nn.Module]:
    """The averaged weights of the workspace, or of each revision."""
    from stages.lib.node import tensors
    from stages.runtime.weights import dequantize

    if not arguments.revisions:
        named, facts = tensors.load(arguments.artifacts / "ema/model.safetensors")
        yield dequantize.build(named, facts["model"])
    for revision in arguments.revisions:
        with tempfile.TemporaryDirectory() as folder:
            command = ["dvc", "get", "--quiet", str(ROOT), "artifacts/ema/model.safetensors", "--rev", revision, "--out", f"{folder}/model"]
            subprocess.run(command, check=True, cwd=ROOT)
            named, facts = tensors.load(Path(folder) / "model")
            yield dequantize.build({name: weight.clone() for name, weight in named.items()}, facts["model"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=ROOT / "artifacts", help="artifacts of a run (default: this project's)")
    parser.add_argument(
        "--revisions", nargs="*", default=[], help="experiments or commits whose models are measured (default: the workspace)"
    )
    parser.add_argument("--texts", nargs="*", type=Path, default=[], help="other texts beside holdout, .jsonl (also .xz)")
    parser.add_argument("--targets", type=int, default=1_000_000, help="the first targets of each text (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="targets of a chunk (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="words that a row's name must contain one of")
    parser.add_argument("--write", action="store_true", help="put the table between the markers of docs/memory.md")
    arguments = parser.parse_args()
    from stages.lib.node import params
    from stages.runtime.scoring import harness
    from stages.runtime.scoring.evaluators import memory

    torch.set_num_threads(1)
    options = params.read(ROOT / "params.yaml")["package"]["options"]
    texts, found, cost = list(streams(arguments)), {}, {}
    rows = {WITHOUT: None} | {
        name: changes for name, changes in VARIANTS.items() if not arguments.only or any(word in name for word in arguments.only)
    }
    for model in models(arguments):
        model.text = (arguments.artifacts / "memory/memory.bin").read_bytes()
        for text, tokens, num_bytes in texts:
            network = memory.Evaluator(model, **options).network
            seen, logits = torch.from_numpy(tokens), torch.empty(len(tokens) - 1, model.config.vocabulary_size)
            for chunk in network.chunks(len(tokens) - 1):
                logits[chunk[0].first - 1 : chunk[-1].last] = network.predict(seen[: chunk[-1].last + 1], chunk).detach()
                network.learn(seen[: chunk[-1].last + 1], chunk)
            for name, changes in rows.items():
                evaluator = Rows(logits, arguments.batch)
                if changes is not None:
                    evaluator, spent = measured(model, evaluator, options | changes)
                found.setdefault((name, text), []).append(harness.score(evaluator, tokens).bits_per_byte(num_bytes))
                if changes is not None:
                    cost.setdefault(name, []).append(((len(tokens) - 1) / spent[0], evaluator.state.table.nbytes / 1e6))
                print(f"{name}, {text}: {found[name, text][-1]:.4f}", file=sys.stderr, flush=True)
    table = page(list(rows), texts, found, cost)
    print(table)
    if arguments.write:
        before, rest = PAGE.read_text().split(START)
        PAGE.write_text(f"{before}{START}\n\n{table}\n\n{END}{rest.split(END)[1]}")


def measured(model, rows: Rows, options: dict):
    """The evaluator on these rows, and a list whose number grows by its CPU seconds."""
    from stages.runtime.scoring.evaluators import memory

    evaluator, spent = memory.Evaluator(model, **options), [0.0]
    evaluator.network = rows
    for method in ("predict", "learn"):
        setattr(evaluator, method, timed(getattr(evaluator, method), spent))
    return evaluator, spent


def timed(method, spent: list[float]):
    def call(*arguments):
        started = time.process_time()
        try:
            return method(*arguments)
        finally:
            spent[0] += time.process_time() - started

    return call


def page(names: list[str], texts: list, found: dict, cost: dict) -> str:
    """Mean and standard deviation over the models; what an option changes, as the mean of the paired differences."""
    from benchmarks.default_run import hardware

    base, count = (names[1] if len(names) > 1 else names[0]), len(found[names[0], texts[0][0]])
    lines = ["| | " + " | ".join(text for text, _, _ in texts) + " | targets per CPU second | MB |", "|---|" + "---:|" * (len(texts) + 2)]
    for name in names:
        cells = []
        for text, _, _ in texts:
            values = found[name, text]
            pairs = values if name in (WITHOUT, base) else [one - other for one, other in zip(values, found[base, text], strict=True)]
            form = ".4f" if pairs is values else "+.4f"
            cells.append(f"{statistics.mean(pairs):{form}}" + (f" ± {statistics.stdev(pairs):.4f}" if count > 1 else ""))
        speed, size = (f"{statistics.mean(part):,.0f}" for part in zip(*cost[name], strict=True)) if name in cost else ("", "")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {speed} | {size} |")
    sizes = "; ".join(f"{text} {len(tokens) - 1:,} targets, {num_bytes:,} bytes" for text, tokens, num_bytes in texts)
    lines += [
        "",
        f"Bits per byte, mean ± standard deviation of {count} training seeds; below the second row, differences to it, paired by seed. "
        f"{sizes}. One core of {hardware()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; MB are those of the counts.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
