"""Is the default worth it? Against the naive baseline of the same size, and against AdamW with the same network.

    python benchmarks/training_quality.py     the built-in text, which `dvc repro train` has tokenized
    python benchmarks/training_quality.py --text FILE --max-bytes 30000000

Every run trains for the same time: first the cost of a step is measured, some steps of each run in turn for several rounds, in
seconds of one core (CPU time of the only thread, so that other load hardly counts); then each run gets the number of steps that fit,
which its schedule knows. It is scored on the val split in plain windows with the average of the weights that is best for it on the
first targets of holdout. The naive baseline has its own network (9 layers, relu², full rotation, plain skips), its rates and no decay,
clipping or average, at about the default's number of parameters, batch and sequence; its warm-down has the published share of the
run. AdamW has the default's network and schedule, at several matrix rates. p: one-sided Welch test that the default has fewer bits
per byte.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import yaml

NAIVE = {
    "model.num_layers": 9,
    "model.width": 120,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.mlp_width": 240,
    "model.mlp_negative_slope": 0.0,
    "model.rope_dims": 30,
    "model.query_gain": 1.5,
    "model.logit_softcap": 30.0,
    "model.initialisation": "naive",
    "model.features": {"residual_mix": {}, "unet_skips": {"gated": False, "sets": 4}},
    "train.matrix_learning_rate": 0.04,
    "train.embedding_learning_rate": 0.05,
    "train.scalar_learning_rate": 0.04,
    "train.matrix_weight_decay": 0.0,
    "train.embedding_weight_decay": 0.0,
    "train.scalar_weight_decay": 0.0,
    "train.muon": {
        "momentum": 0.95,
        "momentum_start": 0.85,
        "momentum_warmup_steps": 25,
        "iterations": 5,
        "coefficients": "classical",
        "bound": "frobenius",
        "row_normalize": False,
        "neuron_beta2": 0.0,
        "projections": [],
    },
    "train.warmdown": 0.0871,
    "train.learning_rate_floor": 0.0,
    "train.gradient_clip": 0.0,
}  # 1,200 of 13,780 steps
RUNS = {"default": {}, "naive, as large": NAIVE} | {
    f"AdamW, rate {rate}": {"train.optimizer": "adamw", "train.matrix_learning_rate": rate} for rate in (0.001, 0.003, 0.01)
}
AVERAGES = ("final", "ema_0.95", "ema_0.98", "ema_0.99")
HOLDOUT_TARGETS = 32_768  # enough to choose an average by


def prepare(folder: Path, tree: dict) -> Path:
    """Text, vocabulary and tokens by the pipeline's own stages, below `folder`."""
    for stage in (("prepare",), ("vocabulary",), *(("tokenize", split) for split in ("train", "holdout", "val"))):
        command(folder, tree, *stage)
    return folder / "artifacts/tokenize"


def command(folder: Path, tree: dict, *stage: str) -> None:
    """One stage of the repository, run with `folder` as its project."""
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage[0]}", *stage[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)


def network(tree: dict, vocabulary: int):
    """The network of a parsed params.yaml with its initial weights."""
    import torch

    from stages.runtime.network.config import ModelConfig
    from stages.runtime.network.gpt import GPT, initialise

    sizes = {name: value for name, value in tree["model"].items() if name != "attention_backend"}
    net = GPT(ModelConfig(vocabulary_size=vocabulary, **sizes))
    initialise(net, generator=torch.Generator().manual_seed(tree["train"]["seed"]))
    return net


def costs(tokens: Path, trees: list[dict], *, rounds: int, steps: int) -> list[list[float]]:
    """Seconds of one core per step of each run, one value per round of so many steps; the first round is not counted."""
    from stages.lib.node import launch, params
    from stages.lib.tokens import splits as data
    from stages.runtime.base import plugin
    from stages.train import __main__ as train
    from stages.train import loop, numerics
    from stages.train.prefetch import Prefetcher

    text, began = data.read(tokens / "train", "train"), []
    with launch.world("cpu", threads=1) as world:
        for tree in trees:
            settings = params.section(tree, train.TrainSettings)
            model = network(tree, text.vocabulary_size)
            loader = plugin.load_from(train.LOADERS, settings.loader).Loader(
                text.tokens,
                sequence_length=settings.sequence_length,
                section="train",
                batch_tokens=settings.batch_tokens,
                seed=settings.seed,
            )
            began.append(
                (
                    loop.start(model, settings, world),
                    Prefetcher(loader, world, part_tokens=settings.micro_batch_tokens, is_ahead=False),
                    settings,
                    numerics.resolve(settings.precision, "cpu"),
                )
            )
        seconds: list[list[float]] = [[] for _ in trees]
        for _ in range(rounds + 1):
            for (run, batches, settings, precision), own in zip(began, seconds, strict=True):
                before = time.process_time()
                for _ in range(steps):
                    loop._step(run, batches.parts(run.step), loop.moment_of(run, settings, 0.1, 0.0), world, precision)
                    run.step += 1
                own.append((time.process_time() - before) / steps)
    return [own[1:] for own in seconds]


def measure(tokens: Path, tree: dict) -> tuple[float, int]:
    """(val bits per byte, parameters) of one training, with its best average on holdout."""
    from stages.lib.node import tensors
    from stages.lib.tokens import splits as data
    from stages.lib.tokens import window_score
    from stages.runtime.weights import dequantize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "artifacts").mkdir()
        (folder / "artifacts/tokenize").symlink_to(tokens)
        command(folder, tree, "train")
        holdout, val = (data.read(tokens / split, split, sidecar=True) for split in ("holdout", "val"))
        window, networks = tree["train"]["sequence_length"], []
        for average in AVERAGES:
            path = folder / "artifacts/train" / ("model.safetensors" if average == "final" else f"averages/{average}.safetensors")
            state, facts = tensors.load(path)
            networks.append(dequantize.build(state, facts["model"]))
        best = min(networks, key=lambda net: window_score.chunked(net, holdout, window=window, max_targets=HOLDOUT_TARGETS).bits_per_byte)
        metrics = json.loads((folder / "artifacts/train/metrics.json").read_text())
        return window_score.chunked(best, val, window=window).bits_per_byte, metrics["parameters"]


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
    parser.add_argument("--seconds", type=float, default=60.0, help="training of each run, seconds of one core (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="in which the cost of a step is measured (default: %(default)s)")
    parser.add_argument("--round-steps", type=int, default=5, help="of each run in a round (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="training seeds (default: 1 2 3)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time (default: one per core)")
    arguments = parser.parse_args()
    from stages.recipes import catalog

    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        tokens = ROOT / "artifacts/tokenize"
        if arguments.text:
            path = str(Path(arguments.text).resolve())
            tokens = prepare(
                Path(folder),
                catalog.applied(
                    {"prepare.source": "local", "prepare.path": path, "vocabulary.path": path, "prepare.max_bytes": arguments.max_bytes},
                    tree,
                ),
            )  # vocabulary wants it there
        fixed = {"train.holdout_every": 10**6, "train.threads": 1, "train.device": "cpu"}
        trees = {name: catalog.applied(changes | fixed, tree) for name, changes in RUNS.items()}
        seconds = dict(zip(RUNS, costs(tokens, list(trees.values()), rounds=arguments.rounds, steps=arguments.round_steps), strict=True))
        steps = {name: round(arguments.seconds / statistics.median(own)) for name, own in seconds.items()}

        def score(name: str, seed: int) -> tuple[float, int]:
            found = measure(tokens, catalog.applied({"train.steps": steps[name], "train.seed": seed}, trees[name]))
            print(f"{name}, seed {seed}: {found[0]:.4f}", file=sys.stderr, flush=True)
            return found

        with ThreadPoolExecutor(arguments.processes) as pool:
            waiting = {(name, seed): pool.submit(score, name, seed) for seed in arguments.seeds for name in RUNS}
            results = {key: future.result() for key, future in waiting.items()}
    report(results, seconds, steps, arguments)


def report(results: dict, seconds: dict, steps: dict, arguments) -> None:
    print(
        "| run | parameters | ms per step | s.d. | steps | val bits per byte | s.d. | behind the default | p |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    default = [results["default", seed][0] for seed in arguments.seeds]
    for name in RUNS:
        scores = [results[name, seed][0] for seed in arguments.seeds]
        mean, deviation = statistics.mean(scores), statistics.stdev(scores) if len(scores) > 1 else float("nan")
        behind = "" if name == "default" else f"{mean - statistics.mean(default):+.4f}"
        p = "" if name == "default" or len(scores) < 2 else f"{p_value(default, scores):.2g}"
        print(
            f"| {name} | {results[name, arguments.seeds[0]][1]:,} | {1e3 * statistics.median(seconds[name]):.0f} | "
            f"{1e3 * statistics.stdev(seconds[name]):.0f} | {steps[name]} | {mean:.4f} | {deviation:.4f} | {behind} | {p} |"
        )
    print(
        f"\n{arguments.text or 'built-in text'}, {arguments.seconds:g} s of one core each, n = {len(arguments.seeds)} seeds; "
        f"ms per step: median of {arguments.rounds} rounds of {arguments.round_steps} steps, by CPU time of one thread; "
        f"{platform.machine()}, load {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/training_quality.py"):
        main()
