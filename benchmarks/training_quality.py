"""Is the default worth it? Against the naive baseline of the same size, and against AdamW with the same network.

    python benchmarks/training_quality.py     the built-in text, which `dvc repro train` has tokenized
    python benchmarks/training_quality.py --text FILE --max-bytes 30000000

Every run trains for the same number of seconds on an otherwise idle machine, measured inside the training, and is scored on the val split
in plain windows with the average of the weights that is best for it on holdout. The naive baseline has its own network (9 layers,
relu², full rotation, plain skips), its rates and no decay, clipping or average, at the default's number of parameters, batch and
sequence; its warm-down has the published share of the run. AdamW has the default's network and schedule, at the best of several
matrix rates. p: one-sided Welch test that the default has fewer bits per byte.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose tokenize.py would hide the standard library's

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile

import yaml

NAIVE = {
    "model.num_layers": 9, "model.width": 120, "model.num_heads": 4, "model.num_kv_heads": 2, "model.mlp_width": 240,
    "model.mlp_negative_slope": 0.0, "model.rope_dims": 30, "model.query_gain": 1.5, "model.logit_softcap": 30.0,
    "model.initialisation": "naive", "model.features": {"residual_mix": {}, "unet_skips": {"gated": False, "sets": 4}},
    "train.matrix_learning_rate": 0.04, "train.embedding_learning_rate": 0.05, "train.scalar_learning_rate": 0.04,
    "train.matrix_weight_decay": 0.0, "train.embedding_weight_decay": 0.0, "train.scalar_weight_decay": 0.0,
    "train.muon": {"momentum": 0.95, "momentum_start": 0.85, "momentum_warmup_steps": 25, "iterations": 5, "coefficients": "classical",
                   "row_normalize": False, "neuron_beta2": 0.0, "projections": []},
    "train.warmdown": 0.0871, "train.learning_rate_floor": 0.0, "train.gradient_clip": 0.0}  # 1,200 of 13,780 steps
RUNS = {"default": {}, "naive, as large": NAIVE} | {
    f"AdamW, rate {rate}": {"train.optimizer": "adamw", "train.matrix_learning_rate": rate} for rate in (0.001, 0.003, 0.01)}
AVERAGES = ("final", "ema_0.95", "ema_0.98", "ema_0.99")


def prepare(folder: Path, tree: dict) -> Path:
    """Text, vocabulary and tokens by the pipeline's own stages, below `folder`."""
    for stage in (("prepare",), ("vocabulary",), *(("tokenize", split) for split in ("train", "holdout", "val"))):
        command(folder, tree, *stage)
    return folder / "artifacts/tokenize"


def command(folder: Path, tree: dict, *stage: str) -> None:
    """One stage of the repository, run with `folder` as its project."""
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    done = subprocess.run([sys.executable, "-m", f"stages.{stage[0]}", *stage[1:]], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    if done.returncode:
        sys.exit(done.stderr)


def measure(tokens: Path, tree: dict) -> tuple[float, int, int]:
    """(val bits per byte, steps, parameters) of one training, with its best average on holdout."""
    from stages.lib import scoring, tensors
    from stages.lib.data import tokens as data
    from stages.runtime import dequantize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "artifacts").mkdir()
        (folder / "artifacts/tokenize").symlink_to(tokens)
        command(folder, tree, "train")
        splits = {split: data.read(tokens / split, split, sidecar=True) for split in ("holdout", "val")}
        scores = {}
        for average in AVERAGES:
            path = folder / "artifacts/train" / ("model.safetensors" if average == "final" else f"averages/{average}.safetensors")
            state, facts = tensors.load(path)
            net = dequantize.build(state, facts["model"])
            scores[average] = [scoring.chunked(net, splits[split], window=tree["train"]["sequence_length"]).bits_per_byte
                               for split in ("holdout", "val")]
        metrics = json.loads((folder / "artifacts/train/metrics.json").read_text())
    return min(scores.values())[1], metrics["steps"], metrics["parameters"]


def p_value(ours: list[float], theirs: list[float]) -> float:
    """One-sided Welch: how likely so large a lead is by chance, if the means were equal."""
    n, m = len(ours), len(theirs)
    v, w = statistics.variance(ours) / n, statistics.variance(theirs) / m
    t = (statistics.mean(theirs) - statistics.mean(ours)) / math.sqrt(v + w)
    df = (v + w) ** 2 / (v**2 / (n - 1) + w**2 / (m - 1))
    # the tail of Student's t, by Simpson's rule in x = t + s / (1 - s)
    density = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    steps = 20_000
    total = 0.0
    for i in range(steps):
        s = i / steps
        x = t + s / (1 - s)
        weight = 1 if i == 0 else 4 if i % 2 else 2
        total += weight * density * (1 + x * x / df) ** (-(df + 1) / 2) / (1 - s) ** 2
    return total / (3 * steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a file or folder of text, instead of the built-in text in artifacts/tokenize")
    parser.add_argument("--max-bytes", type=int, default=30_000_000, help="of it (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="training seconds of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="training seeds (default: 1 2 3)")
    arguments = parser.parse_args()
    from stages.recipes import files

    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        tokens = ROOT / "artifacts/tokenize"
        if arguments.text:
            tokens = prepare(Path(folder), files.applied({"prepare.source": "local", "prepare.path": str(Path(arguments.text).resolve()),
                                                          "prepare.max_bytes": arguments.max_bytes}, tree))
        fixed = {"train.seconds": arguments.seconds, "train.steps": 10**6, "train.holdout_every": 10**6}
        print("| run | parameters | steps | val bits per byte | s.d. | behind the default | p |\n|---|---:|---:|---:|---:|---:|---:|")
        default: list[float] = []
        for name, changes in RUNS.items():
            runs = [measure(tokens, files.applied(changes | fixed | {"train.seed": seed}, tree)) for seed in arguments.seeds]
            scores = [run[0] for run in runs]
            default = default or scores
            mean, deviation = statistics.mean(scores), statistics.stdev(scores) if len(scores) > 1 else float("nan")
            behind = "" if name == "default" else f"{mean - statistics.mean(default):+.4f}"
            p = "" if name == "default" or len(scores) < 2 else f"{p_value(default, scores):.2g}"
            print(f"| {name} | {runs[0][2]:,} | {runs[0][1]} | {mean:.4f} | {deviation:.4f} | {behind} | {p} |", flush=True)
    print(f"\n{arguments.text or 'built-in text'}, {arguments.seconds:g} s of training each, n = {len(arguments.seeds)} seeds, "
          f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
