"""Why the default model looks as it does: variants of it, each trained for the same number of seconds.

    python benchmarks/architecture.py                      all variants, 60 s each, one seed
    python benchmarks/architecture.py --seconds 20 --seeds 1 2 3

Needs artifacts/tokenize (run `dvc repro tokenize` first) and an otherwise idle machine: the budget is in seconds, so anything
else that runs is measured too. Prints mean and standard deviation of the holdout bits per byte (weights of `ema.average`,
plain windows) over the seeds. Nothing is written to artifacts/.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import platform
import statistics
import subprocess
import tempfile

import yaml

BIGRAM = {"bigram_hash": {"buckets": 2048, "width": 64, "scale": 0.05, "trigram": False}}
SMEAR = {"smear_gate": {"version": 2, "window": 12}}
VALUES = {"value_embedding": {"layers": [1], "width": 32, "scale": 0.1}}
PLAIN = {"model.features": {}, "train.muon.row_normalize": False}
VARIANTS = {  # name -> what differs from params.yaml
    "default": {},
    "plain": PLAIN,
    "plain, bigram hash": PLAIN | {"model.features": BIGRAM},
    "plain, smear gate": PLAIN | {"model.features": SMEAR},
    "plain, value embedding": PLAIN | {"model.features": VALUES},
    "plain, residual mix": PLAIN | {"model.features": {"residual_mix": {}}},
    "plain, XSA": PLAIN | {"model.features": {"xsa": {"last_layers": 2}}},
    "plain, polar express": PLAIN | {"train.muon.coefficients": "polar_express"},
    "plain, MuonEq-R": PLAIN | {"train.muon.row_normalize": True},
    "plain, NorMuon": PLAIN | {"train.muon.neuron_beta2": 0.95},
    "default, NorMuon too": {"train.muon.neuron_beta2": 0.95},
    "default, NorMuon instead": {"train.muon.row_normalize": False, "train.muon.neuron_beta2": 0.95},
    "one more layer": {"model.num_layers": 3},
    "wider": {"model.width": 256, "model.num_heads": 4},
    "sequences of 256": {"train.sequence_length": 256},
    "4096 tokens per step": {"train.batch_tokens": 4096},
    "Muon rate 0.02": {"train.matrix_learning_rate": 0.02},
    "warm-down over 0.7 of the run": {"train.warmdown": 0.7},
    "query gain 4": {"model.query_gain": 4.0},
}


def measure(changes: dict, budget: dict, seed: int) -> tuple[float, float, int, int]:
    """(holdout bits per byte, tokens per second, steps, parameters) of one training."""
    from stages.lib.node import tensors
    from stages.lib.tokens import splits, window_score
    from stages.recipes import catalog
    from stages.runtime.weights import dequantize

    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    fixed = budget | {"train.seed": seed, "train.holdout_every": 10**6}
    tree = catalog.applied(changes | fixed, tree)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "params.yaml").write_text(yaml.safe_dump(tree))
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "stages.train",
                "--params",
                out / "params.yaml",
                "--weights",
                out / "model.safetensors",
                "--averages",
                out / "averages",
                "--snapshots",
                out / "snapshots",
                "--curve",
                out / "loss.csv",
                "--metrics",
                out / "metrics.json",
                "--scratch",
                out / "scratch",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        metrics = yaml.safe_load((out / "metrics.json").read_text())
        average = tree["ema"]["average"]
        state, facts = tensors.load(out / "model.safetensors" if average == "final" else out / "averages" / f"{average}.safetensors")
        split = splits.read(ROOT / "artifacts/tokenize/holdout", "holdout", sidecar=True)
        score = window_score.chunked(dequantize.build(state, facts["model"]), split, window=tree["train"]["sequence_length"])
    return score.bits_per_byte, metrics["tokens_per_second"], metrics["steps"], metrics["parameters"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="training seconds of each run (default: 60)")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="which variants (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337], help="training seeds (default: 1337)")
    parser.add_argument("--steps", type=int, help="training steps of each run instead: does not see what a step costs, nor other load")
    arguments = parser.parse_args()
    budget = {"train.steps": arguments.steps} if arguments.steps else {"train.seconds": arguments.seconds, "train.steps": 10**6}
    print("| variant | parameters | steps | tokens/s | holdout bits per byte | s.d. |\n|---|---:|---:|---:|---:|---:|")
    for name in arguments.only:
        runs = [measure(VARIANTS[name], budget, seed) for seed in arguments.seeds]
        scores = [run[0] for run in runs]
        deviation = f"{statistics.stdev(scores):.4f}" if len(scores) > 1 else "-"
        print(f"| {name} | {runs[0][3]:,} | {runs[0][2]} | {runs[0][1]:,} | {statistics.mean(scores):.4f} | {deviation} |", flush=True)
    each = f"{arguments.steps} steps" if arguments.steps else f"{arguments.seconds:g} s"
    print(
        f"\n{each} of training each, n = {len(arguments.seeds)}, {os.cpu_count()} cores, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/architecture.py"):
        main()
