"""More weights or more bits: networks of several widths, trained for the same CPU time and quantized to the same bytes.

    python benchmarks/sizes.py                              after `dvc repro tokenize@train tokenize@holdout`
    python benchmarks/sizes.py --widths 192 256 --bytes 772000 --seeds 1 2 3
    python benchmarks/sizes.py --write                      puts the table into docs/quantization.md

A network has the default's layers; its heads have 64 features, and its feed-forward layer the default's share of the width. The default
trains for its own steps, and every other width for as many as take the same CPU time of one thread: the cost of a step is the median of
rounds in which all widths take turns, so other load hardly counts. Rates are the default's for all widths. Each network is then quantized
by the pipeline's own stages, with steps of matrices by gradients (`sensitivity.start`), to each number of bytes, which is the estimate
for all weights together (`quantize.entropy.target_bytes`). Scores are bits per byte of holdout in plain windows. With several seeds they
are means with the standard deviation. Killed, it goes on; delete scratch/sizes/ after a change of params.yaml.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import itertools
import os
import platform
import statistics

import yaml

from benchmarks import training_quality as quality
from stages.lib.node import files
from stages.recipes import catalog

PAGE, BEGIN, END = ROOT / "docs/quantization.md", "<!-- sizes: benchmarks/sizes.py --write -->", "<!-- end of sizes -->"
WORK, HEAD_WIDTH = ROOT / "scratch/sizes", 64
FIXED = {"train.holdout_every": 10**6, "train.threads": 1, "train.device": "cpu", "calibrate.threads": 1, "sensitivity.start": "gradient"}


def tree_of(width: int, tree: dict) -> dict:
    mlp = round(tree["model"]["mlp_width"] / tree["model"]["width"] * width / 16) * 16
    return catalog.applied({"model.width": width, "model.num_heads": width // HEAD_WIDTH, "model.mlp_width": mlp} | FIXED, tree)


def trained(folder: Path, tree: dict) -> None:
    """One network with its statistics, below `folder`, unless it is there."""
    if not (folder / "artifacts/sensitivity/multipliers.json").is_file():
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        (folder / "artifacts/tokenize").unlink(missing_ok=True)
        (folder / "artifacts/tokenize").symlink_to(ROOT / "artifacts/tokenize")
        for stage in ("train", "ema", "prequant_ttt", "calibrate", "sensitivity"):
            quality.command(folder, tree, stage)
    files.write_json(folder / "artifacts/fill_cap/target.json", {"target_bytes": None})  # as fill_cap does where the target is a number


def scores(folder: Path, tree: dict, targets: list[int]) -> list[tuple[float, float]]:
    """(score, bits per weight) before quantization, where the second is the number of weights, and at each number of bytes."""
    from stages.lib.node import tensors
    from stages.lib.tokens import splits, window_score
    from stages.runtime.weights import dequantize

    def score(name: str) -> float:
        stored, facts = tensors.load(artifacts / name / "model.safetensors")
        state = dequantize.weights({name: tensor.numpy() for name, tensor in stored.items()}, facts.get("quantization"))
        net = dequantize.build(state, facts["model"])
        return window_score.chunked(net, holdout, window=tree["plain_score"]["window"]).bits_per_byte

    artifacts = folder / "artifacts"
    holdout = splits.read(artifacts / "tokenize/holdout", "holdout", sidecar=True)
    found = [(score("prequant_ttt"), files.read_json(artifacts / "train/metrics.json")["parameters"])]
    for target in targets:
        quality.command(folder, catalog.applied({"quantize.entropy.target_bytes": target}, tree), "quantize")
        metrics = files.read_json(artifacts / "quantize/metrics.json")
        if metrics["entropy"]["missed"]:
            sys.exit(f"width {tree['model']['width']}: {metrics['entropy']['missed']}")
        found.append((score("quantize"), 8 * metrics["entropy"]["estimated_bytes"] / metrics["quantized_weights"]))
    return found


def cell(values: tuple[float, ...]) -> str:
    return f"{statistics.fmean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 192, 256, 320], help="multiples of 64, one the default's")
    targets = [386_000, 546_000, 772_000, 1_092_000]  # the default's bytes, in steps of half an octave
    parser.add_argument("--bytes", type=int, nargs="+", default=targets, help="of the quantized weights (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="training seeds (default: 1)")
    parser.add_argument("--write", action="store_true", help="put the table between the markers of docs/quantization.md")
    arguments = parser.parse_args()
    tree, seeds, runs = yaml.safe_load((ROOT / "params.yaml").read_text()), arguments.seeds, {}
    trees = {width: tree_of(width, tree) for width in arguments.widths}
    if not (path := WORK / "costs.json").is_file():
        each = quality.costs(ROOT / "artifacts/tokenize", list(trees.values()), rounds=7, steps=2)
        files.write_json(path, dict(zip(map(str, trees), map(statistics.median, each), strict=True)))
    cost = {int(width): value for width, value in files.read_json(path).items()}
    seconds = tree["train"]["steps"] * cost[tree["model"]["width"]]
    steps = {width: round(seconds / cost[width]) for width in arguments.widths}
    for width, seed in itertools.product(arguments.widths, seeds):
        runs[width, seed] = WORK / f"{width}-{seed}", catalog.applied({"train.steps": steps[width], "train.seed": seed}, trees[width])
    for run in runs.values():
        trained(*run)
    found = {key: scores(*run, arguments.bytes) for key, run in runs.items()}
    lines = ["| width | weights | ms per step | steps | before | " + " | ".join(f"{size:,} bytes" for size in arguments.bytes) + " |"]
    lines += ["|---:|---:|---:|---:|---:|" + "---:|" * len(arguments.bytes)]
    for width in arguments.widths:
        columns = [list(zip(*own, strict=True)) for own in zip(*(found[width, seed] for seed in seeds), strict=True)]
        (before, weights), *coded = [(cell(values), statistics.fmean(others)) for values, others in columns]
        cells = [f"{width}", f"{weights:,.0f}", f"{1e3 * cost[width]:.0f}", f"{steps[width]}", before]
        lines.append(f"| {' | '.join(cells + [f'{text}, {bits:.2f} bits' for text, bits in coded])} |")
    lines += ["", f"n = {len(seeds)} seeds, {seconds:.0f} s of one core of {os.cpu_count()} for each training, {platform.machine()}."]
    print("\n".join(lines))
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/sizes.py"):
        main()
