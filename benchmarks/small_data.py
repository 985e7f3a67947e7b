"""What the switches for many epochs of little text are worth, against one setting that is tuned without them.

    python benchmarks/small_data.py --text FILE              a file of text that is long enough, for example articles of Wikipedia
    python benchmarks/small_data.py --text FILE --write      and puts the table into docs/training.md

A part of the text is divided by document into train and a holdout that is as large, so that holdout says something. The network is NETWORK:
it has more weights than the text has tokens, as those for which the switches were published. Its batch is the default's, and it sees
the text --epochs times. The baseline is params.yaml with the default's loader; its rates are tuned (--factors) on the first seed. The
switches, alone, those that gain together, and all together, have the same rates and every seed. Losses are bits per byte on holdout, of
the best average of the weights, to which `epoch_average` adds one of its own. Differences are paired by seed; p: one-sided paired t-test.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import json
import os
import statistics
import tempfile

import yaml

from benchmarks import steps as harness
from benchmarks import training_quality as quality
from benchmarks.default_run import hardware
from stages.recipes import catalog

BEGIN, END = "<!-- small data: benchmarks/small_data.py --write -->", "<!-- end of small data -->"
NETWORK = {"model.num_layers": 2, "model.width": 96, "model.num_heads": 3, "model.mlp_width": 416}


def switches(tree: dict, epochs: int) -> dict[str, dict]:
    """Changes of params.yaml by the name of the row, with the values of the slowrun."""
    own = tree["train"]["techniques"]
    cycles = {"epoch_cycles": {"epochs": epochs, "last": 3, "floor": 0.05, "least": 0.65}}
    average = {"epoch_average": {"epochs": epochs, "last": 4}}
    dropout, depth, loader = {"dropout": {"rate": 0.1}}, {"stochastic_depth": {"rate": 0.05}}, {"train.loader": "documents"}
    every = own | dropout | depth | cycles | average
    return {
        "baseline": {},
        "loader: documents": loader,
        "dropout .1": {"train.techniques": own | dropout},
        "stochastic depth .05": {"train.techniques": own | depth},
        "epoch cycles": {"train.techniques": own | cycles, "train.warmdown": 0.0},
        "epoch average": {"train.techniques": own | average},
        "documents, dropout, depth": {"train.techniques": own | dropout | depth} | loader,
        "all five": {"train.techniques": every, "train.warmdown": 0.0} | loader,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="a file or folder of text")
    parser.add_argument("--max-bytes", type=int, default=300_000, help="of it, half for train (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 1.0], help="of the rates of the baseline (default: .5 1)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time (default: one per core)")
    parser.add_argument("--results", type=Path, help="a file to which every training adds a line; those in it are not repeated")
    parser.add_argument("--write", action="store_true", help="put the table between its markers in docs/training.md")
    arguments = parser.parse_args()
    path = str(Path(arguments.text).resolve())
    fixed = {
        "prepare.source": "local",
        "prepare.path": path,
        "prepare.max_bytes": arguments.max_bytes,
        "prepare.holdout_fraction": 0.47,
        "vocabulary.path": path,
        "train.holdout_every": 10**6,
        "train.threads": 1,
        "train.device": "cpu",
    }
    tree = catalog.applied(NETWORK | fixed, yaml.safe_load((ROOT / "params.yaml").read_text()))
    with tempfile.TemporaryDirectory() as folder:
        tokens = quality.prepare(Path(folder), tree)
        trees = {name: catalog.applied(changes, tree) for name, changes in switches(tree, arguments.epochs).items()}
        runs = harness.Trainings(tokens, trees, arguments.factors, arguments.processes, arguments.results)
        lines = measured(runs, arguments, json.loads((tokens / "train/meta.json").read_text()))
    print("\n".join(lines))
    if arguments.write:
        harness.write(BEGIN, END, lines)


def measured(runs: harness.Trainings, arguments, train: dict) -> list[str]:
    """The lines of the table."""
    base, first = runs.trees["baseline"], arguments.seeds[0]
    steps = round(arguments.epochs * train["tokens"] / base["train"]["batch_tokens"])
    tried = {factor: runs.begin("baseline", first, steps, factor) for factor in arguments.factors}
    factor = min(tried, key=lambda one: tried[one].result())
    waiting = {name: [runs.begin(name, seed, steps, factor) for seed in arguments.seeds] for name in runs.trees}
    losses = {name: [future.result() for future in own] for name, own in waiting.items()}
    rows = ["| switch | loss | s.d. | against the baseline | s.d. | p | share of the loss |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, found in losses.items():
        ratio = statistics.mean(found) / statistics.mean(losses["baseline"]) - 1
        cells = " |  |  | " if name == "baseline" else f"{harness.against(found, losses['baseline'])} | {ratio:+.2%}"
        rows.append(f"| {name} | {statistics.mean(found):.4f} | {harness.deviation(found)} | {cells} |")
    weights = sum(weight.numel() for weight in quality.network(base, train["vocabulary_size"]).parameters())
    tried = ", ".join(f"{one:g}: {future.result():.4f}" for one, future in tried.items())
    return [
        *rows,
        "",
        f"{arguments.epochs} epochs of {train['bytes']:,} bytes of {Path(arguments.text).name} ({train['tokens']:,} tokens, {steps} "
        f"steps), {weights:,} weights, n = {len(arguments.seeds)} seeds, one thread of {hardware()} for each run. "
        f"Factor of the default's rates and loss of the baseline, seed {first}: {tried}.",
    ]


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/small_data.py"):
        main()
