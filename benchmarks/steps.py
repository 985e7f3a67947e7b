"""How many steps, and seconds of one core, each technique needs for the holdout loss of the default before them.

    python benchmarks/steps.py --screen-only            every candidate with few steps and one seed, after tuning its rates
    python benchmarks/steps.py                          then those that gained, with several seeds
    python benchmarks/steps.py --text FILE              other text than the built-in one in artifacts/tokenize
    python benchmarks/steps.py --larger                 a network of 4 layers of 256 in place of the default's
    python benchmarks/steps.py --write                  and puts the table into docs/training.md

Baseline: the default of 2026-11-29, BASELINE below. Candidates differ from it only by what they name, and by one factor for the rates of
matrices and embedding, which is tuned for each of them with the same trials (--factors), also for the baseline itself.
1. Screen: --screen-steps of --steps, the first seed, every factor; the best of a candidate counts.
2. Survivors, which beat the baseline there: --share of --steps, all seeds, against the baseline with --steps. A seed has one order of text
for all, so differences are paired. p: one-sided paired t-test that a candidate with fewer steps has less loss than the baseline with all.

Steps until the baseline's loss: from the loss at that share, along the baseline's slope in log(steps), which it has between its own runs of
both lengths. The loss is in bits per byte, of the best average of the weights on the first HOLDOUT_TARGETS of holdout. Seconds are CPU time
of one thread: the median over rounds in which the runs take turns, so other load hardly counts, and what a technique computes before the
first step.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import math
import os
import platform
import statistics
import tempfile

import yaml

from benchmarks import training_quality as quality
from stages.lib.referee import significance
from stages.recipes import catalog

PAGE, BEGIN, END = ROOT / "docs/training.md", "<!-- steps: benchmarks/steps.py --write -->", "<!-- end of steps -->"
AVERAGES = ("final", "ema_0.95", "ema_0.98")
HOLDOUT_TARGETS = 32_768
BASELINE = {
    "model.tied_head": True,
    "train.steps": 640,
    "train.matrix_learning_rate": 0.04,
    "train.embedding_learning_rate": 0.02,
    "train.matrix_weight_decay": 0.1,
    "train.muon.momentum": 0.95,
    "train.warmdown": 1.0,
    "train.learning_rate_floor": 0.1,
    "train.techniques": {},
}
BIGRAMS = {"bigram_start": {"tokens": 10_000_000, "smoothing": 1.0, "std": 0.2}}
UNTIED = {"model.tied_head": False, "train.muon.momentum": 0.9}


def named(**techniques) -> dict:
    return {"train.techniques": techniques}


CANDIDATES = {
    "baseline": {},
    "SOAP-Muon, all, smaller side": named(soap_muon={"matrices": "all", "sides": "smaller", "every": 1, "decay": 0.9}),
    "SOAP-Muon, mlp, every 10": named(soap_muon={"matrices": "mlp", "sides": "both", "every": 10, "decay": 0.9}),
    "power cooldown": named(power_cooldown={"power": 1.2, "start_matrices": 0.177, "start_others": 0.513, "floor": 0.0})
    | {"train.warmdown": 0.0},
    "EMA-Nesterov": named(ema_nesterov={"strength": 0.6, "decay": 0.99, "start": 0.15, "end": 0.75}),
    "cautious decay, .4": named(cautious_decay={"others": True}) | {"train.matrix_weight_decay": 0.4},
    "row floor, pin, cautious decay": named(row_floor={"floor": 0.3825, "decay": 0.025}),
    "second beta": named(second_beta={"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-10}),
    "momentum cooldown": named(momentum_cooldown={"share": 0.07, "end": 0.85}),
    "initial scales": named(initial_scales={"taper": 0.3, "spread": 0.125}),
    "momentum .9": {"train.muon.momentum": 0.9},
    "head of its own": {"model.tied_head": False},
    "bigram start": UNTIED | named(**BIGRAMS),
    "bigram start, SOAP-Muon": UNTIED | named(**BIGRAMS, soap_muon={"matrices": "all", "sides": "smaller", "every": 1, "decay": 0.9}),
}
LARGER = {"model.num_layers": 4, "model.width": 256, "model.num_heads": 4, "model.mlp_width": 1024}


def loss(tokens: Path, tree: dict) -> float:
    """Holdout bits per byte of one training, with its best average."""
    from stages.lib.node import tensors
    from stages.lib.tokens import splits, window_score
    from stages.runtime.weights import dequantize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "artifacts").mkdir()
        (folder / "artifacts/tokenize").symlink_to(tokens)
        quality.command(folder, tree, "train")
        holdout, out = splits.read(tokens / "holdout", "holdout", sidecar=True), folder / "artifacts/train"
        found = []
        for average in AVERAGES:
            state, facts = tensors.load(out / ("model.safetensors" if average == "final" else f"averages/{average}.safetensors"))
            net = dequantize.build(state, facts["model"])
            score = window_score.chunked(net, holdout, window=tree["train"]["sequence_length"], max_targets=HOLDOUT_TARGETS)
            found.append(score.bits_per_byte)
    return min(found)


def tuned(tree: dict, factor: float) -> dict:
    rates = {f"train.{kind}_learning_rate": factor * tree["train"][f"{kind}_learning_rate"] for kind in ("matrix", "embedding")}
    return catalog.applied(rates, tree)


def table(chosen: dict, losses: dict, full: list[float], cost: dict, arguments) -> list[str]:
    """Rows of the survivors: `losses` by candidate and seed at the share of the steps, `full` of the baseline at all of them."""
    few = round(arguments.share * arguments.steps)
    target, slope = statistics.mean(full), (statistics.mean(losses["baseline"]) - statistics.mean(full)) / math.log(arguments.steps / few)
    rows = [
        "| candidate | factor of the rates | loss | s.d. | against the baseline with all steps | p | steps until its loss | ms per step | "
        "CPU seconds until its loss |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        f"| baseline, {arguments.steps} steps | {chosen['baseline']:g} | {target:.4f} | {deviation(full)} |  |  | {arguments.steps} | "
        f"{1e3 * cost['baseline'][0]:.0f} | {arguments.steps * cost['baseline'][0]:.0f} |",
    ]
    for name, found in losses.items():
        test = significance.one_sample([own - theirs for own, theirs in zip(found, full, strict=True)], 0.0, 0.0)
        p = "" if test.p is None else f"{test.p:.2g}"
        until = few * math.exp((statistics.mean(found) - target) / slope)
        step, once = cost[name]
        rows.append(
            f"| {name}, {few} steps | {chosen[name]:g} | {statistics.mean(found):.4f} | {deviation(found)} | {test.mean:+.4f} | {p} | "
            f"{until:.0f} ({until / arguments.steps:.2f}) | {1e3 * step:.0f} | {until * step + once:.0f} "
            f"({(until * step + once) / (arguments.steps * cost['baseline'][0]):.2f}) |"
        )
    return rows


def deviation(values: list[float]) -> str:
    return f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""


def costs(tokens: Path, trees: dict[str, dict], *, rounds: int, steps: int) -> dict[str, tuple[float, float]]:
    """(CPU seconds per step, CPU seconds before the first step) of each run."""
    import time

    from stages.lib.node import launch, params
    from stages.lib.tokens import splits
    from stages.train import optimizers
    from stages.train.settings import TrainSettings

    found = quality.costs(tokens, list(trees.values()), rounds=rounds, steps=steps)
    text, out = splits.read(tokens / "train", "train").tokens, {}
    with launch.world("cpu", threads=1) as world:
        for (name, tree), own in zip(trees.items(), found, strict=True):
            net = quality.network(tree, text.vocabulary_size)
            both = optimizers.Optimizers(net, params.section(tree, TrainSettings), world)
            began = time.process_time()
            both.each("initialise", text)
            out[name] = statistics.median(own), time.process_time() - began
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), help="candidates (default: all)")
    parser.add_argument("--text", help="a file or folder of text, in place of the built-in text in artifacts/tokenize")
    parser.add_argument("--max-bytes", type=int, default=10_000_000, help="of it (default: %(default)s)")
    parser.add_argument("--larger", action="store_true", help="4 layers of 256 in place of 2 of 192")
    parser.add_argument("--steps", type=int, default=BASELINE["train.steps"], help="of the baseline (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.8, help="of them for a survivor (default: %(default)s)")
    parser.add_argument("--screen-steps", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--screen-only", action="store_true")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 1.4], help="of the rates, tried for each (default: 1 1.4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="default: 1 to 5")
    parser.add_argument("--rounds", type=int, default=7, help="in which the cost of a step is measured (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put the tables between the markers of docs/training.md")
    arguments = parser.parse_args()
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    fixed = {"train.holdout_every": 10**6, "train.threads": 1, "train.device": "cpu"}
    tree = catalog.applied(BASELINE | fixed | (LARGER if arguments.larger else {}), tree)
    with tempfile.TemporaryDirectory() as folder:
        tokens = ROOT / "artifacts/tokenize"
        if arguments.text:
            path = str(Path(arguments.text).resolve())
            local = {"prepare.source": "local", "prepare.path": path, "vocabulary.path": path, "prepare.max_bytes": arguments.max_bytes}
            tokens = quality.prepare(Path(folder), catalog.applied(local, tree))
        lines = measured(tokens, tree, arguments)
    print("\n".join(lines))
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + rest.partition(END)[2], encoding="utf-8")


def measured(tokens: Path, tree: dict, arguments) -> list[str]:
    """The lines of both tables."""

    def run(name: str, seed: int, steps: int, factor: float) -> float:
        own = tuned(catalog.applied(CANDIDATES[name] | {"train.seed": seed, "train.steps": steps}, tree), factor)
        found = loss(tokens, own)
        print(f"{name}, seed {seed}, {steps} steps, rates x {factor:g}: {found:.4f}", file=sys.stderr, flush=True)
        return found

    names = list(dict.fromkeys(["baseline", *arguments.only]))
    first = arguments.seeds[0]
    screen = {name: {factor: run(name, first, arguments.screen_steps, factor) for factor in arguments.factors} for name in names}
    chosen = {name: min(found, key=found.get) for name, found in screen.items()}
    least = min(screen["baseline"].values())
    lines = [
        f"Screen: {arguments.screen_steps} steps, seed {first}, the best of {len(arguments.factors)} factors of the rates.",
        "",
        "| candidate | factor of the rates | loss | against the baseline |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {chosen[name]:g} | {min(found.values()):.4f} | {min(found.values()) - least:+.4f} |"
            for name, found in screen.items()
        ),
    ]
    survivors = ["baseline", *(name for name in names if min(screen[name].values()) < least)]
    if not arguments.screen_only:
        few = round(arguments.share * arguments.steps)
        full = [run("baseline", seed, arguments.steps, chosen["baseline"]) for seed in arguments.seeds]
        losses = {name: [run(name, seed, few, chosen[name]) for seed in arguments.seeds] for name in survivors}
        trees = {name: tuned(catalog.applied(CANDIDATES[name], tree), chosen[name]) for name in survivors}
        lines += ["", *table(chosen, losses, full, costs(tokens, trees, rounds=arguments.rounds, steps=2), arguments)]
    text, network = arguments.text and Path(arguments.text).name, "4 layers of 256" if arguments.larger else "the default network"
    machine = f"one thread of {os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} at the end"
    return [*lines, "", f"{text or 'Built-in text'}, {network}, n = {len(arguments.seeds)} seeds, {machine}."]


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/steps.py"):
        main()
