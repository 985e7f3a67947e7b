"""How many steps, and seconds of one core, each technique needs for the holdout loss of the default before them.

    python benchmarks/steps.py --screen-only            every candidate with few steps, after tuning its rates
    python benchmarks/steps.py                          then those that gained, with several seeds
    python benchmarks/steps.py --finalists NAME ...     the same with these in place of those that gained
    python benchmarks/steps.py --text FILE              other text than the built-in one in artifacts/tokenize
    python benchmarks/steps.py --larger                 a network of 4 layers of 256 in place of the default's
    python benchmarks/steps.py --results FILE           continues with what earlier calls have measured
    python benchmarks/steps.py --write                  and puts both tables into docs/training.md

Baseline: the default of 2026-11-29, BASELINE below. Candidates differ from it only by what they name, and by one factor for the rates of
matrices and embedding, which is tuned for each of them with the same trials (--factors) on the first seed, also for the baseline itself.
"The default of today" has all that params.yaml says now.
1. Screen: --screen-steps. The first seed has every factor, all other --screen-seeds have the best one.
2. Finalists: --share of --steps, against the baseline with --steps. Both are tuned anew at this length, and then have all --seeds.
A seed has one order of text for all, so differences are paired. p: one-sided paired t-test that a candidate has less loss than the
baseline of its table.

Steps until the baseline's loss: from the loss at that share, along the baseline's slope in log(steps), which it has between its own runs of
both lengths (--slope-seeds). The loss is in bits per byte, of the best average of the weights on the first HOLDOUT_TARGETS of holdout.
Seconds are CPU time of one thread: the median over rounds in which the runs take turns, so other load hardly counts, and what a technique
computes before the first step. A line of --results is one training, whose key is a hash of its settings and its text, not of the code.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import hashlib
import importlib
import json
import math
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor

import yaml

from benchmarks import training_quality as quality
from benchmarks.default_run import hardware
from stages.lib.node import params
from stages.lib.referee import significance
from stages.recipes import catalog

PAGE, BEGIN, END = ROOT / "docs/training.md", "<!-- steps: benchmarks/steps.py --write -->", "<!-- end of steps -->"
AVERAGES = ("final", "ema_0.95", "ema_0.98")  # and those of techniques
HOLDOUT_TARGETS = 32_768
BASELINE = {
    "model.width": 192,
    "model.num_heads": 3,
    "model.mlp_width": 832,
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
    "tail blend": named(tail_blend={"start": 0.83, "steps": 30, "share": 0.6}),
    "bigram start, SOAP-Muon": UNTIED | named(**BIGRAMS, soap_muon={"matrices": "all", "sides": "smaller", "every": 1, "decay": 0.9}),
}
TODAY, WITH_SECOND_BETA = "the default of today", "the default of today, second beta"
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
        for average in AVERAGES + tuple(name for name in ("tail_blend", "epoch_average") if name in tree["train"]["techniques"]):
            state, facts = tensors.load(out / ("model.safetensors" if average == "final" else f"averages/{average}.safetensors"))
            net = dequantize.build(state, facts["model"])
            score = window_score.chunked(net, holdout, window=tree["train"]["sequence_length"], max_targets=HOLDOUT_TARGETS)
            found.append(score.bits_per_byte)
    return min(found)


def tuned(tree: dict, factor: float) -> dict:
    rates = {f"train.{kind}_learning_rate": factor * tree["train"][f"{kind}_learning_rate"] for kind in ("matrix", "embedding")}
    return catalog.applied(rates, tree)


class Trainings:
    """Losses of trainings, some at a time, each one only once."""

    def __init__(self, tokens: Path, trees: dict[str, dict], factors: list[float], processes: int, results: Path | None):
        for module in ("stages.lib.node.tensors", "stages.lib.tokens.window_score", "stages.runtime.weights.dequantize"):
            importlib.import_module(module)  # before threads do
        self.tokens, self.trees, self.factors, self.results = tokens, trees, factors, results
        self.pool, self.known, self.begun = ThreadPoolExecutor(processes), {}, {}
        self.text = json.loads((tokens / "train/meta.json").read_text())["text_sha256"]
        if results and results.exists():
            self.known = {line["key"]: line["loss"] for line in map(json.loads, results.read_text().splitlines())}

    def begin(self, name: str, seed: int, steps: int, factor: float):
        """The future of the loss of one training."""
        asked = name, seed, steps, factor
        if asked not in self.begun:
            self.begun[asked] = self.pool.submit(self._loss, *asked)
        return self.begun[asked]

    def _loss(self, name: str, seed: int, steps: int, factor: float) -> float:
        tree = tuned(catalog.applied({"train.seed": seed, "train.steps": steps}, self.trees[name]), factor)
        key = hashlib.sha256(json.dumps([self.text, tree["model"], tree["train"]], sort_keys=True).encode()).hexdigest()
        if key not in self.known:
            found = loss(self.tokens, tree)
            print(f"{name}, seed {seed}, {steps} steps, rates x {factor:g}: {found:.4f}", file=sys.stderr, flush=True)
            if self.results:
                line = json.dumps({"key": key, "name": name, "seed": seed, "steps": steps, "factor": factor, "loss": found})
                with self.results.open("a") as file:
                    file.write(line + "\n")
            self.known[key] = found
        return self.known[key]

    def tuned(self, steps: dict[str, int], seeds: list[int]) -> tuple[dict[str, float], dict[str, list[float]]]:
        """The best factor of each name on the first seed, and with it the losses of all seeds."""
        tried = {name: {factor: self.begin(name, seeds[0], steps[name], factor) for factor in self.factors} for name in steps}
        chosen = {name: min(found, key=lambda factor: found[factor].result()) for name, found in tried.items()}
        for seed in seeds:  # one seed of all after the other, so a call that ends early leaves pairs
            for name in steps:
                self.begin(name, seed, steps[name], chosen[name])
        return chosen, {name: [self.begin(name, seed, steps[name], chosen[name]).result() for seed in seeds] for name in steps}


def against(found: list[float], base: list[float]) -> str:
    """Three cells: the mean difference, its standard deviation, p."""
    pairs = [own - theirs for own, theirs in zip(found, base, strict=True)]
    p = significance.one_sample(pairs, 0.0, 0.0).p
    return f"{statistics.mean(pairs):+.4f} | {deviation(pairs)} | {'' if p is None else f'{p:.2g}'}"


def screen_table(chosen: dict[str, float], losses: dict[str, list[float]]) -> list[str]:
    rows = ["| candidate | factor of the rates | loss | against the baseline | s.d. | p |", "|---|---:|---:|---:|---:|---:|"]
    for name, found in losses.items():
        cells = " |  | " if name == "baseline" else against(found, losses["baseline"])
        rows.append(f"| {name} | {chosen[name]:g} | {statistics.mean(found):.4f} | {cells} |")
    return rows


def final_table(chosen: dict, losses: dict, slope: float, cost: dict, few: int, steps: int) -> list[str]:
    """Rows of the finalists: `losses` by candidate and seed, of the baseline with all its steps, of all others with `few`."""
    full, spent = losses["baseline"], steps * cost["baseline"][0]
    rows = [
        "| candidate | factor of the rates | loss | s.d. | against the baseline | s.d. | p | steps until its loss | ms per step | "
        "CPU seconds until its loss |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        f"| baseline, {steps} steps | {chosen['baseline']:g} | {statistics.mean(full):.4f} | {deviation(full)} |  |  |  | {steps} | "
        f"{1e3 * cost['baseline'][0]:.0f} | {spent:.0f} |",
    ]
    for name, found in losses.items():
        if name != "baseline":
            until = few * math.exp((statistics.mean(found) - statistics.mean(full)) / slope)
            step, once = cost[name]
            rows.append(
                f"| {name}, {few} steps | {chosen[name]:g} | {statistics.mean(found):.4f} | {deviation(found)} | {against(found, full)} | "
                f"{until:.0f} ({until / steps:.2f}) | {1e3 * step:.0f} | {until * step + once:.0f} ({(until * step + once) / spent:.2f}) |"
            )
    return rows


def deviation(values: list[float]) -> str:
    return f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""


def costs(tokens: Path, trees: dict[str, dict], *, rounds: int, steps: int) -> dict[str, tuple[float, float]]:
    """(CPU seconds per step, CPU seconds before the first step) of each run."""
    import time

    from stages.lib.node import launch
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
    every = [*CANDIDATES, TODAY, WITH_SECOND_BETA]
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="candidates (default: all)")
    parser.add_argument("--finalists", nargs="+", choices=every, help="candidates of the second table (default: those that gained)")
    parser.add_argument("--text", help="a file or folder of text, in place of the built-in text in artifacts/tokenize")
    parser.add_argument("--max-bytes", type=int, default=10_000_000, help="of it (default: %(default)s)")
    parser.add_argument("--larger", action="store_true", help="4 layers of 256 in place of 2 of 192")
    parser.add_argument("--steps", type=int, default=BASELINE["train.steps"], help="of the baseline (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.8, help="of them for a finalist (default: %(default)s)")
    parser.add_argument("--screen-steps", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--screen-seeds", type=int, nargs="+", default=[1], help="default: 1")
    parser.add_argument("--screen-only", action="store_true")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 1.4], help="of the rates, tried for each (default: 1 1.4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="default: 1 to 5")
    parser.add_argument("--slope-seeds", type=int, nargs="+", default=[1, 2], help="some of --seeds (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=7, help="in which the cost of a step is measured (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time (default: one per core)")
    parser.add_argument("--results", type=Path, help="a file to which every training adds a line; those in it are not repeated")
    parser.add_argument("--write", action="store_true", help="put the tables between the markers of docs/training.md")
    arguments = parser.parse_args()
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    today = {path: params.lookup(tree, path) for path in BASELINE if not (arguments.larger and path in LARGER)}
    more = {"train.techniques": today["train.techniques"] | CANDIDATES["second beta"]["train.techniques"]}
    fixed = {"train.holdout_every": 10**6, "train.threads": 1, "train.device": "cpu"}
    tree = catalog.applied(BASELINE | fixed | (LARGER if arguments.larger else {}), tree)
    candidates = CANDIDATES | {TODAY: today, WITH_SECOND_BETA: today | more}
    trees = {name: catalog.applied(changes, tree) for name, changes in candidates.items()}
    with tempfile.TemporaryDirectory() as folder:
        tokens = ROOT / "artifacts/tokenize"
        if arguments.text:
            path = str(Path(arguments.text).resolve())
            local = {"prepare.source": "local", "prepare.path": path, "vocabulary.path": path, "prepare.max_bytes": arguments.max_bytes}
            tokens = quality.prepare(Path(folder), catalog.applied(local, tree))
        runs = Trainings(tokens, trees, arguments.factors, arguments.processes, arguments.results)
        lines = measured(runs, arguments)
    print("\n".join(lines))
    if arguments.write:
        write(BEGIN, END, lines)


def write(begin: str, end: str, lines: list[str]) -> None:
    """Put the lines between two markers of docs/training.md."""
    before, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{PAGE.relative_to(ROOT)} lacks {begin!r} or {end!r}; add both, with the table between them")
    PAGE.write_text(before + "\n".join([begin, "", *lines, "", end]) + after, encoding="utf-8")


def measured(runs: Trainings, arguments) -> list[str]:
    """The lines of both tables."""
    names = list(dict.fromkeys(["baseline", *arguments.only]))
    chosen, losses = runs.tuned(dict.fromkeys(names, arguments.screen_steps), arguments.screen_seeds)
    lines = [
        f"Screen: {arguments.screen_steps} steps, n = {len(arguments.screen_seeds)} of a row, the best of the factors "
        f"{', '.join(f'{factor:g}' for factor in arguments.factors)} of the rates by seed {arguments.screen_seeds[0]}.",
        "",
        *screen_table(chosen, losses),
    ]
    if not arguments.screen_only:
        gained = [name for name in names if statistics.mean(losses[name]) < statistics.mean(losses["baseline"])]
        finalists = ["baseline", *(arguments.finalists or gained)]
        few = round(arguments.share * arguments.steps)
        steps = dict.fromkeys(finalists, few) | {"baseline": arguments.steps}
        chosen, losses = runs.tuned(steps, arguments.seeds)
        short = {seed: runs.begin("baseline", seed, few, chosen["baseline"]) for seed in arguments.slope_seeds}
        long = dict(zip(arguments.seeds, losses["baseline"], strict=True))
        rise = statistics.mean(short[seed].result() - long[seed] for seed in short)
        trees = {name: tuned(runs.trees[name], chosen[name]) for name in finalists}
        cost = costs(runs.tokens, trees, rounds=arguments.rounds, steps=2)
        lines += [
            "",
            f"Finalists: n = {len(arguments.seeds)} seeds of a row, tuned with the same factors at this length. With {few} steps the "
            f"baseline has {rise:+.4f} (n = {len(short)}).",
            "",
            *final_table(chosen, losses, rise / math.log(arguments.steps / few), cost, few, arguments.steps),
        ]
    text, network = arguments.text and Path(arguments.text).name, "4 layers of 256" if arguments.larger else "2 layers of 192"
    return [*lines, "", f"{text or 'Built-in text'}, {network}, one thread of {hardware()} for each run."]


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/steps.py"):
        main()
