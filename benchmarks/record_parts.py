"""What each part in which #2135 differs from #1855 gives in small: text with CaseOps, equal steps, several seeds, in pairs.

    python benchmarks/record_parts.py --text FILE --tokenizer MODEL     a text, and the published model of 8,192 pieces; prints a table

The first row is recipe `pr1855` with SMALL sizes. Each further row takes one part more from recipe `pr2135`, in the order of the pipeline:
training, quantization, evaluation. A row that changes nothing above the evaluator shares its weights with the row before it. Scores are
bits per byte of val, on the first whole documents that have --targets tokens, after quantization. Differences are paired by seed; p:
two-sided paired t-test that the part changes nothing.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import hashlib
import json
import math
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import yaml

from benchmarks import training_quality as quality
from benchmarks.default_run import hardware
from stages.lib.node import params
from stages.lib.referee.significance import one_sample
from stages.recipes import __main__ as recipes
from stages.recipes import catalog, shrink

SMALL = {
    "model.width": 96,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.mlp_width": 384,
    "model.rope_dims": 8,
    "train.seconds": None,
    "train.reserve_seconds": 0.0,
    "train.clock": [],
    "train.sequence_length": 256,
    "train.batch_tokens": 4096,
    "train.micro_batch_tokens": 4096,
    "train.priming_steps": 0,
    "train.holdout_every": 10**6,
    "train.device": "cpu",
    "train.processes": 1,
    "train.threads": 1,
    "calibrate.device": "cpu",
    "calibrate.threads": 1,
    "calibrate.sequence_length": 256,
    "ema.window": 256,
    "package.cap_bytes": 16_000_000,
}
OFF = {  # what nodes that are off would have written
    "sensitivity/multipliers.json": {"multipliers": {}},
    "fill_cap/target.json": {"target_bytes": None},
}
WINDOW, CONTEXT = 256, 320  # of training, and five quarters of it, as 2,560 of 2,048
PARTS = {  # part: what it takes from #2135, and what is published about it alone
    "matrix rate .028 in place of .026": (("train.matrix_learning_rate",), "with two more values of #2060: -1.07, p .011"),
    "smear gate across documents": (("model.features",), "not alone"),
    "LQER groups of 32, twice the calibration, gates in float16": (
        ("quantize.low_rank.group", "quantize.groups.projection", "calibrate.sequences"),
        "16 batches of calibration in place of 32: +0.19 (#2130)",
    ),
    "context of five quarters": (("window",), "not alone: #1953 is 0.88 below #1945 with three changes"),
    "adapters not on keys, rate .8, decay 2": (("targets", "learning_rate", "weight_decay"), "not alone"),
    "one phase in place of three": (("phases",), "not alone"),
    "tilt": (("network", "order", "confidence", "boost"), "-0.57 together with slope .3 (#2140)"),
}


def trees(tree: dict, arguments) -> tuple[dict, list[tuple[str, dict, dict]]]:
    """The tree whose text is prepared, and for each row: its name, its params.yaml, and the evaluator's options."""
    text = {
        "prepare.source": "local",
        "prepare.path": str(arguments.text.resolve()),
        "prepare.max_bytes": arguments.max_bytes,
        "prepare.split": "hash",
        "vocabulary.source": "file",
        "vocabulary.path": str(arguments.tokenizer.resolve()),
    }
    old, new = (whole(name, tree, text, arguments.steps) for name in ("pr1855", "pr2135"))
    options, goal = ({"network": "ttt_phased", "order": 16, "confidence": 0.8, "boost": 0.0} | small(one) for one in (old, new))
    found, now = [("#1855", old, options)], old
    for name, (paths, _) in PARTS.items():
        changes = {path: params.lookup(new, path) for path in paths if "." in path}
        now, options = catalog.applied(changes, now), options | {path: goal[path] for path in paths if "." not in path}
        found.append((name, now, options))
    return old, found


def whole(name: str, tree: dict, text: dict, steps: int) -> dict:
    """A recipe with SMALL sizes and so many steps."""
    full = catalog.applied(recipes.scaled(name, "full", tree), tree)
    counted = shrink.counted_in_steps(full, shrink.budget.steps(full["train"], full["model"]["features"]), steps)
    sequences = {"calibrate.sequences": full["calibrate"]["sequences"] // 24}
    return catalog.applied(counted | SMALL | {"train.steps": steps} | sequences | text, full)


def small(tree: dict) -> dict:
    """The options of a recipe's evaluator for SMALL sizes."""
    options = dict(tree["package"]["options"])
    share = len(options["phases"])
    sizes = {"window": WINDOW if options["window"] == 2048 else CONTEXT, "rank": 15}
    return options | sizes | {"phases": [round(9 * (i + 1) / share) for i in range(share)], "phase_chunk": 2048, "phase_rows": 4}


class Rows:
    """Trainings and scores, some at a time; each one is kept in --results."""

    def __init__(self, tokens: Path, folder: Path, arguments):
        self.tokens, self.folder, self.arguments, self.known = tokens, folder, arguments, {}
        if arguments.results and arguments.results.exists():
            self.known = {line["key"]: line["bits_per_byte"] for line in map(json.loads, arguments.results.read_text().splitlines())}

    def score(self, item: tuple[str, dict, dict, int]) -> float:
        name, tree, options, seed = item
        tree = catalog.applied({"train.seed": seed}, tree)
        above = [tree[section] for section in ("prepare", "vocabulary", "model", "train", "ema", "calibrate", "quantize")]
        key = _sha256([above, options, self.arguments.targets])
        if key not in self.known:
            weights = self.folder / _sha256(above)
            if not weights.exists():
                self._train(weights, tree)
            self.known[key] = scored(weights, self.tokens, options, self.arguments.targets)
            print(f"{name}, seed {seed}: {self.known[key]:.4f}", file=sys.stderr, flush=True)
            if self.arguments.results:
                with self.arguments.results.open("a") as handle:
                    handle.write(json.dumps({"key": key, "name": name, "seed": seed, "bits_per_byte": self.known[key]}) + "\n")
        return self.known[key]

    def _train(self, folder: Path, tree: dict) -> None:
        """From initial weights to quantized ones, by the pipeline's own stages."""
        place = folder.with_suffix(".part")
        for name, content in OFF.items():
            path = place / "artifacts" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        (place / "artifacts/tokenize").symlink_to(self.tokens)
        for node in ("train", "ema", "prequant_ttt", "calibrate", "quantize"):
            quality.command(place, tree, node)
        place.rename(folder)


def _sha256(values: list) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def scored(weights: Path, tokens: Path, options: dict, targets: int) -> float:
    """Bits per byte of the first whole documents of val that have so many targets."""
    import torch

    from stages.lib.node import tensors
    from stages.lib.tokens import splits
    from stages.runtime.scoring import harness
    from stages.runtime.scoring.evaluators import tilt
    from stages.runtime.text.tokenizer import BOS
    from stages.runtime.weights import dequantize

    torch.set_num_threads(1)
    stored, facts = tensors.load(weights / "artifacts/quantize/model.safetensors")
    state = dequantize.weights({name: tensor.numpy() for name, tensor in stored.items()}, facts.get("quantization"))
    split = splits.read(tokens / "val", "val", sidecar=True)
    stream = np.asarray(split.tokens[:], np.int64)
    edges = np.append(np.flatnonzero(stream == BOS), len(stream))
    end = int(edges[max(1, np.searchsorted(edges, targets, side="right") - 1)])
    ledger = harness.score(tilt.Evaluator(dequantize.build(state, facts["model"]), **options), stream[:end])
    return float(ledger.nats.sum()) / math.log(2) / int(split.byte_counts[1:end].sum())


def table(found: dict[str, list[float]]) -> list[str]:
    lines = ["| part | bits per byte | mBPB against the row above | s.d. | p | published, mBPB |", "|---|---:|---:|---:|---:|---|"]
    before = None
    for name, scores in found.items():
        cells = " |  |  | "
        if before:
            pairs = [1e3 * (own - theirs) for own, theirs in zip(scores, before, strict=True)]
            cells = f"{statistics.mean(pairs):+.2f} | {deviation(pairs)} | {two_sided(pairs)} | {PARTS[name][1]}"
        lines.append(f"| {name} | {statistics.mean(scores):.4f} | {cells} |")
        before = scores
    first, last = (found[name] for name in (next(iter(found)), name))
    pairs = [1e3 * (own - theirs) for own, theirs in zip(last, first, strict=True)]
    lines.append(f"| all together | | {statistics.mean(pairs):+.2f} | {deviation(pairs)} | {two_sided(pairs)} | -4.57 |")
    return lines


def two_sided(pairs: list[float]) -> str:
    if len(pairs) < 2 or not any(pairs):
        return ""
    below = one_sample(pairs, 0.0, 0.0).p
    return f"{2 * min(below, 1 - below):.2g}"


def deviation(values: list[float]) -> str:
    return f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="documents, as prepare.path takes them")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a SentencePiece model with the reserved pieces of CaseOps")
    parser.add_argument("--max-bytes", type=int, default=8_000_000, help="of the text (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--targets", type=int, default=12_000, help="of val (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time (default: one per core)")
    parser.add_argument("--results", type=Path, help="a file to which every score adds a line; those in it are not repeated")
    arguments = parser.parse_args()
    prepared, rows = trees(yaml.safe_load((ROOT / "params.yaml").read_text()), arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        done = Rows(quality.prepare(folder / "text", prepared), folder, arguments)

        def one_seed(seed: int) -> list[float]:  # rows in order, because later ones use the weights of earlier ones
            return [done.score((*row, seed)) for row in rows]

        with ThreadPoolExecutor(arguments.processes) as pool:
            by_seed = list(pool.map(one_seed, arguments.seeds))
    found = {row[0]: [scores[i] for scores in by_seed] for i, row in enumerate(rows)}
    lines = [*table(found), "", f"{arguments.text.name}, {arguments.steps} steps, n = {len(arguments.seeds)}, {hardware()}."]
    print("\n".join(lines))


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/record_parts.py"):
        main()
