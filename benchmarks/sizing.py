"""The rules of `python -m stages.recipes --for`: measure trainings of many sizes, fit the rules to them, and write docs/sizing.md.

    python benchmarks/sizing.py measure --text books=FILE     runs that are not in docs/sizing.json yet; killed, it goes on
    python benchmarks/sizing.py nodes --recipe NAME           core seconds of every node of a sized recipe (as root, on Linux)
    python benchmarks/sizing.py fit                           stages/recipes/dial/rules.json, and the tables of docs/sizing.md

Each run trains one network on one core, with a text of its own, and scores val in plain windows. GRID has the runs: a group of them changes
one thing. Those of `test` are not used for any rule; they are what the rules are judged by.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import time
from dataclasses import asdict, fields

import numpy as np
import torch

from benchmarks import recipes, rehearse
from stages.lib.node import files, params
from stages.lib.tokens import splits
from stages.recipes import catalog, describe
from stages.recipes.dial import hardware, pilot, plan, rules, size, sizes

KEPT, PAGE = ROOT / "docs/sizing.json", ROOT / "docs/sizing.md"
START, END = "<!-- rules: benchmarks/sizing.py fit -->", "<!-- end of rules -->"
WORK = ROOT / "scratch/sizing"


def of(layers=2, width=192, vocabulary=1024, context=128, batch=2048, tokens=300_000, rate=0.04) -> dict:
    """One training, by the number of tokens that it sees."""
    return asdict(sizes.Sizes(layers, width, vocabulary, context, batch, max(1, round(tokens / batch)), rate))


PILOT = asdict(pilot.SIZES)
MB15, MB25 = pilot.BYTES, 25_000_000
GRID: dict[str, list[tuple[str, int, dict]]] = {  # group: (text, bytes of it, sizes)
    "pilot": [(text, MB15, PILOT) for text in ("builtin", "wikipedia", "fineweb")] + [("wikipedia", MB25, PILOT)],
    "size": [("builtin", MB15, of(width=width, tokens=tokens)) for width, tokens in ((192, 200_000), (64, 400_000))],
    "test": [
        (text, MB15, found)
        for found in (of(width=128, tokens=200_000), of(layers=3, width=96, tokens=200_000))
        for text in ("builtin", "wikipedia", "fineweb")
    ]
    + [("wikipedia", MB25, of(1, 64, context=256, batch=8192, tokens=8e6))],
    "longer": [("builtin", MB15, of(width=width, tokens=tokens)) for width, tokens in ((96, 500_000), (256, 200_000), (192, 500_000))],
    "long": [
        ("wikipedia", MB25, of(layers, width, context=256, batch=8192, tokens=tokens))
        for layers, width, tokens in ((1, 64, 4e6), (2, 128, 2e6), (2, 128, 8e6), (2, 192, 4e6))
    ],
    "batch": [("builtin", MB15, of(width=96, tokens=200_000, batch=batch)) for batch in (1024, 4096)]
    + [("wikipedia", MB25, of(1, 64, context=256, batch=batch, tokens=4e6)) for batch in (2048, 4096)],
    "rate": [("builtin", MB15, of(width=width, tokens=200_000, rate=rate)) for width in (96, 192) for rate in (0.02, 0.08)],
    "context": [("builtin", MB15, of(width=96, tokens=200_000, context=tokens)) for tokens in (64, 256)],
    "layers": [("builtin", MB15, of(layers=layers, width=width, tokens=200_000)) for layers, width in ((1, 192), (4, 96))],
    "texts": [("books", MB15, found) for found in (PILOT, of(width=96, tokens=400_000), of(width=192, tokens=200_000))],
    "vocabulary": [("builtin", MB15, of(width=96, vocabulary=pieces, tokens=200_000)) for pieces in (512, 2048)],
}
ORDER = tuple(GRID)


def measure(texts: dict[str, str], groups: list[str]) -> None:
    """Run what is not kept yet, and keep each result at once."""
    tree = params.read(ROOT / "params.yaml")
    kept = read()
    known = [(row["text"], row["bytes"], row["sizes"]) for row in kept["trainings"]]
    for group in groups:
        for text, amount, wanted in GRID[group]:
            if (text, amount, wanted) in known:
                continue
            if text != "builtin" and text not in texts:
                print(f"{group}: {text} is left out; give it with --text {text}=PATH", file=sys.stderr)
                continue
            chosen = catalog.applied(
                text_values(texts.get(text), amount)
                | sizes.values(sizes.Sizes(**wanted))
                | {"train.threads": 1, "train.device": "cpu", "train.checkpoint_seconds": 1e6},
                tree,
            )
            core = time.process_time()
            tokens = pilot.tokenized(WORK / f"{text}-{amount}-{wanted['vocabulary']}", chosen)
            found = pilot.trained(WORK / "run", tokens, chosen)
            row = {"group": group, "text": text, "bytes": amount, "sizes": wanted, **asdict(found)}
            row["core_rate"] = core_rate()
            kept["trainings"].append(row)
            known.append((text, amount, wanted))
            write(kept)
            print(
                f"{group:10} {text:10} {amount:>10,} {wanted['layers']}x{wanted['width']} v{wanted['vocabulary']} c{wanted['context']} "
                f"b{wanted['batch_tokens']} s{wanted['steps']} r{wanted['matrix_learning_rate']}: {found.bits_per_byte:.4f}, "
                f"{found.core_seconds:.1f} core s, {time.process_time() - core:.1f} with text and scores",
                flush=True,
            )


def core_rate() -> float:
    """FLOPs of square products in a second of a core, which other work on the machine does not change much."""
    size, best = 1024, float("inf")
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    for _ in range(6):
        started = time.thread_time()
        a @ b
        best = min(best, time.thread_time() - started)
    return 2 * size**3 / best


def text_values(path: str | None, size: int) -> dict:
    """Values by path of a text: the built-in one, or that of a file or folder."""
    if path is None:
        return {"prepare.source": "builtin", "prepare.max_bytes": size}
    return {"prepare.source": "local", "prepare.path": path, "vocabulary.path": path, "prepare.max_bytes": size}


class Processes:
    """The core seconds of a program and of all that it starts, also of jails that end without being waited for: a control group of Linux,
    which only root may make."""

    def __init__(self):
        first = Path("/sys/fs/cgroup/cpuacct")
        self.folder = (first if first.is_dir() else Path("/sys/fs/cgroup")) / f"caddie-sizing-{os.getpid()}"
        self.folder.mkdir()

    def run(self, command: list[str], folder: Path) -> float:
        before = self.used()
        enter = f'echo $$ > {self.folder}/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", enter, "sh", *command], cwd=folder, env=rehearse._environment(folder), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return self.used() - before

    def used(self) -> float:
        if (old := self.folder / "cpuacct.usage").is_file():
            return int(old.read_text()) / 1e9
        return int((self.folder / "cpu.stat").read_text().split()[1]) / 1e6


def nodes(name: str) -> None:
    """Run every node of the sized recipe `name` in a copy of the tree, and keep what each took."""
    folder = WORK / "nodes" / name
    if not folder.is_dir():
        folder.mkdir(parents=True)
        recipes.copy_tree(folder)
        found = catalog.values(name, params.read(ROOT / "params.yaml"))
        catalog.apply(found, folder / "params.yaml")
        if (ROOT / found.get("prepare.path", "")).is_dir():  # git does not track it
            shutil.copytree(ROOT / found["prepare.path"], folder / found["prepare.path"], dirs_exist_ok=True)
    group, kept = Processes(), read()
    mine = kept["nodes"].setdefault(name, {"seconds": {}})
    for node in rehearse.nodes(folder):
        if node not in mine["seconds"]:
            mine["seconds"][node] = round(group.run(["dvc", "repro", "--single-item", node], folder), 2)
            print(f"{node:28} {mine['seconds'][node]:8.2f} core s", flush=True)
            write(kept)
    tree = params.read(folder / "params.yaml")
    made = files.read_json(folder / "artifacts/prepare/metrics.json")["bytes"]
    wanted = sizes.Sizes(
        *(tree["model"][name] for name in ("num_layers", "width")),
        tree["vocabulary"]["size"],
        *(tree["train"][name] for name in ("sequence_length", "batch_tokens", "steps", "matrix_learning_rate")),
    )
    targets = splits.read(folder / "artifacts/tokenize/val", "val").facts["tokens"]
    compared = 2 * min(made["train"], tree["text_compressors"]["train_bytes"]) + made["val"]
    mine["drivers"] = {"text": sum(made.values()) / 1e6, "compared": compared / 1e6, "targets": targets, "sizes": asdict(wanted)}
    mine["train_tokens"] = splits.read(folder / "artifacts/tokenize/train", "train").facts["tokens"]
    mine["claimed"] = files.read_json(folder / "artifacts/evaluate/memory/metrics.json")["bits_per_byte"]
    source = {
        path: value for path, value in catalog.values(name, tree).items() if path in ("prepare.source", "prepare.path", "prepare.split")
    }
    if "pilot" not in mine:
        mine["pilot"] = asdict(size.tried_on(source, tree))
    write(kept)


# What is known of large runs and of the default from elsewhere. bits_per_byte is the score after averaging, in plain windows.
DEFAULT = {"text": "builtin", "sizes": of(tokens=640 * 2048), "unique": 3_316_199, "bits_per_byte": 1.7664}  # README, n = 3 seeds
DEFAULT |= {"sliding": 1.7557, "memory_bits_per_byte": 1.4269, "text_bytes": 8_912_300}
DEFAULT_SECONDS = {"train": 86, "text_compressors": 26, "evaluate@sliding": 12, "evaluate@memory": 23, "audit@sliding": 22}
DEFAULT_SECONDS |= {"audit@memory": 47}  # two idle cores, docs/log.md, 2026-11-29
DEFAULT_TARGETS, DEFAULT_MB, DEFAULT_COMPARED_MB = 139_476, 9.83, 18.2
SLOPES = {"prepare": 1.0, "vocabulary": 1.2, "tokenize": 0.25, "memory": 0.3, "quantize": 1.2, "compress": 1.5}  # a MB, a million weights
NAIVE = 1.22437  # published, of FineWeb: stages/recipes/naive.yaml
PRIOR = {"floor": (0.40, 0.15), "alpha": (0.35, 0.15), "beta": (0.35, 0.15), "repeats": (8.0, 6.0)}  # mean and width; weak
FIT, TEST = ("pilot", "size", "longer", "long", "texts"), "test"


def fitted(kept: dict) -> dict:
    """The numbers of rules.json, from what was measured."""
    rows = kept["trainings"]
    pilots = _pilots(rows)
    points = [_point(row, pilots) for row in rows if row["group"] in FIT]
    points.append(_known(DEFAULT["sizes"], DEFAULT["unique"], DEFAULT["bits_per_byte"] / pilots["builtin", MB15]["bits_per_byte"]))
    published = describe.describe(catalog.applied(catalog.values("naive", tree := params.read(ROOT / "params.yaml")), tree))
    seen = published.steps.total * published.batch_tokens
    points.append((published.flops / 2, seen, 8e9, NAIVE / pilots["fineweb", MB15]["bits_per_byte"]))
    score = _fit_score(points)
    remembered = [_remembered(row, pilots) for row in rows if row["group"] in FIT and (row["sizes"], row["bytes"]) != (PILOT, MB15)]
    remembered.append(_remembered(DEFAULT | {"train_bytes": DEFAULT["text_bytes"]}, pilots))
    left = np.array([(network, -grown) for network, grown, _ in remembered])
    exponent, text = np.linalg.lstsq(left, np.array([memory for _, _, memory in remembered]), rcond=None)[0].tolist()
    costs = _fit_costs([row for row in rows if "core_rate" in row and _is_timed(row)], kept["nodes"])
    found = {
        "score": score | {"error": 0.0},
        "memory_exponent": exponent,
        "memory_text": text,
        "memory_error": 0.0,
        **costs,
        "train_start": BEGIN,
        "gpu_share": published.training_flops / (8 * 600 * hardware.CARDS["H100"][0]),
        "most_weights": max(point[0] for point in points[:-1]),
        "most_tokens": max(point[1] for point in points[:-1]),
        "nodes": {},
        "fineweb": {field.name: pilots["fineweb", MB15].get(field.name, field.default) for field in fields(pilot.Trained)},
    }
    known = rules.Rules(**found | {"score": rules.Score(**found["score"])})
    judged = predictions(rows, known)
    found["score"]["error"] = max(abs(row["error"]) for row in judged)
    found["memory_error"] = max(abs(row["memory_error"]) for row in judged)
    found["nodes"] = _fit_nodes(kept["nodes"], known, statistics.median(row["core_rate"] for row in rows if "core_rate" in row))
    return found


SOURCE = ("prepare.source", "prepare.path", "prepare.split")
BEGIN = 3.0  # core seconds of a training stage before its first step and after its last


def _is_timed(row: dict) -> bool:
    """The runs that the rule of seconds is fitted to: those of two layers on the built-in text, and the long ones."""
    return row["sizes"]["layers"] == 2 and (row["group"] == "long" or (row["text"] == "builtin" and row["group"] != TEST))


def _fit_costs(rows: list[dict], runs: dict) -> dict[str, float]:
    """s, h and c of core seconds = start + FLOPs / rate x (1 / s + (h / s) / width) + c steps, by least squares of relative errors."""
    rate = statistics.median(row["core_rate"] for row in rows)
    known = [(sizes.Sizes(**row["sizes"]), row["core_seconds"], row["core_rate"]) for row in rows]
    known += [(sizes.Sizes(**run["drivers"]["sizes"]), run["seconds"]["train"], rate) for run in runs.values()]
    known.append((sizes.Sizes(**DEFAULT["sizes"]), 2 * DEFAULT_SECONDS["train"], rate))  # two idle cores
    left, right = [], []
    for wanted, spent, own_rate in known:
        work = (rules.training_flops(wanted) + rules.measuring_flops(wanted)) / own_rate
        left.append([work / spent, work / wanted.width / spent, wanted.steps / spent])
        right.append((spent - BEGIN) / spent)
    inverse, slope, step = np.linalg.lstsq(np.array(left), np.array(right), rcond=None)[0]
    if slope < 0:  # too few widths to tell
        slope = 0.0
        inverse, step = np.linalg.lstsq(np.array(left)[:, [0, 2]], np.array(right), rcond=None)[0]
    return {"share_most": 1 / inverse, "share_width": slope / inverse, "step_seconds": step}


def _pilots(rows: list[dict]) -> dict[tuple[str, int], dict]:
    """The pilots by text and by how much of it they had. Scores on other val documents are compared with those of their own pilot."""
    return {(row["text"], row["bytes"]): row for row in rows if row["sizes"] == PILOT}


def _tokens(row: dict) -> int:
    return sizes.Sizes(**row["sizes"]).tokens


def _point(row: dict, pilots: dict) -> tuple[float, float, float, float]:
    return _known(row["sizes"], row["train_tokens"], row["bits_per_byte"] / pilots[row["text"], row["bytes"]]["bits_per_byte"])


def _known(wanted: dict, unique: float, ratio: float) -> tuple[float, float, float, float]:
    """Weights that multiply, tokens, different tokens, and the score over that of the pilot."""
    found = sizes.Sizes(**wanted)
    return rules.weights(found), found.tokens, unique, ratio


def _remembered(row: dict, pilots: dict) -> tuple[float, float, float]:
    """Logarithms of a run's network score, train text and `memory` score over those of the pilot on a little of its text."""
    names = ("bits_per_byte", "train_bytes", "memory_bits_per_byte")
    return tuple(math.log(row[name] / pilots[row["text"], MB15][name]) for name in names)


def _fit_score(points: list[tuple[float, float, float, float]]) -> dict:
    """Least squares of the logarithm, with weak priors; the pilot itself has ratio 1, so three numbers sum to it."""
    first = sizes.Sizes(**PILOT)
    names, start = ("floor", "share", "alpha", "beta", "repeats"), (0.4, 0.5, 0.35, 0.35, 8.0)
    logs = torch.tensor([math.log(value) for value in start], dtype=torch.float64, requires_grad=True)
    columns = torch.tensor(points, dtype=torch.float64).T

    def loss() -> torch.Tensor:
        floor, share, alpha, beta, repeats = logs.exp()
        share = share / (1 + share)
        weights, tokens, unique, ratio = columns
        again = unique * (1 + repeats * (1 - torch.exp(-(tokens / unique - 1).clamp(min=0) / repeats)))
        seen = torch.where(tokens > unique, again, tokens)
        rest = 1 - floor
        found = floor + rest * share * (weights / rules.weights(first)) ** -alpha + rest * (1 - share) * (seen / first.tokens) ** -beta
        total = ((found.log() - ratio.log()) / 0.01).square().sum()
        for name, (mean, width) in PRIOR.items():
            total = total + ((logs.exp()[names.index(name)] - mean) / width).square()
        return total

    optimizer = torch.optim.LBFGS([logs], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    floor, share, alpha, beta, repeats = (value.item() for value in logs.exp())
    share /= 1 + share
    return {"weights": rules.weights(first), "tokens": first.tokens, "floor": floor, "by_weights": (1 - floor) * share, "alpha": alpha,
            "by_tokens": (1 - floor) * (1 - share), "beta": beta, "repeats": repeats}  # fmt: skip


def predictions(rows: list[dict], known: rules.Rules) -> list[dict]:
    """What the rules say of the runs that they were not fitted to."""
    pilots, out = _pilots(rows), []
    for row in rows:
        if row["group"] != TEST:
            continue
        first, (weights, tokens, unique, _) = pilots[row["text"], MB15], _point(row, pilots)
        predicted = first["bits_per_byte"] * known.score.ratio(weights, tokens, unique)
        memory = first["memory_bits_per_byte"] * (predicted / first["bits_per_byte"]) ** known.memory_exponent
        memory *= (row["train_bytes"] / first["train_bytes"]) ** -known.memory_text
        seconds = _seconds(sizes.Sizes(**row["sizes"]), known, row["core_rate"])
        out.append(
            row
            | {"predicted": predicted, "error": predicted / row["bits_per_byte"] - 1}
            | {"predicted_memory": memory, "memory_error": memory / row["memory_bits_per_byte"] - 1}
            | {"predicted_seconds": seconds, "seconds_error": seconds / row["core_seconds"] - 1}
        )
    return out


def _fit_nodes(runs: dict, known: rules.Rules, rate: float) -> dict[str, tuple[float, float]]:
    """(fixed, slope) by node: through the small run here and the default of docs/log.md, or with the slope of SLOPES."""
    (small,) = runs.values()
    large = sizes.Sizes(**DEFAULT["sizes"])
    ours = _drivers(small["drivers"], known, rate)
    theirs = _drivers(
        {"text": DEFAULT_MB, "compared": DEFAULT_COMPARED_MB, "targets": DEFAULT_TARGETS, "sizes": asdict(large)}, known, rate
    )
    out = {}
    for node, driver in rules.NODES.items():
        spent = sum(value for name, value in small["seconds"].items() if name == node or name.partition("@")[0] == node)
        slope = SLOPES.get(node, 0.0)
        if node in DEFAULT_SECONDS:
            slope = max(0.0, (DEFAULT_SECONDS[node] - spent) / (theirs[driver] - ours[driver]))
        out[node] = (round(max(0.0, spent - slope * ours[driver]), 2), round(slope, 4))
    return out


def tables(kept: dict) -> str:
    """The part of docs/sizing.md between its markers."""
    found = fitted(kept)
    known = rules.Rules(**found | {"score": rules.Score(**found["score"])})
    score, judged = known.score, predictions(kept["trainings"], known)
    lines = [
        f"Fitted: e = {score.floor:.3f}, a = {score.by_weights:.3f}, alpha = {score.alpha:.3f}, b = {score.by_tokens:.3f}, "
        f"beta = {score.beta:.3f}, r = {score.repeats:.1f}; x = {known.memory_exponent:.3f}, z = {known.memory_text:.3f}; "
        f"s = {known.share_most:.3f}, h = {known.share_width:.0f}, c = {1e3 * known.step_seconds:.1f} ms.",
        f"A GPU is assumed to reach {known.gpu_share:.1%} of its peak, as the naive baseline did on 8 H100 by its published seconds.",
        "",
        "Runs that nothing was fitted to, on three texts, one of which is in the fit by its pilot alone. The seconds were fitted to",
        "the runs of `size` and `long` below, to the recipe that ran and to the default:",
        "",
        "| text | layers x width | tokens | windows | predicted | error | `memory` | predicted | error | core s | predicted | error |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['text']} | {row['sizes']['layers']} x {row['sizes']['width']} | {_tokens(row):,} | {row['bits_per_byte']:.4f} | "
        f"{row['predicted']:.4f} | {row['error']:+.1%} | {row['memory_bits_per_byte']:.4f} | {row['predicted_memory']:.4f} | "
        f"{row['memory_error']:+.1%} | {row['core_seconds']:.1f} | {row['predicted_seconds']:.1f} | {row['seconds_error']:+.0%} |"
        for row in judged
    ]
    lines += [
        "",
        "Recipes that were sized and run from text to certificate on 2 cores. The small run gave the fixed seconds of the other stages:",
        "",
        "| recipe | text, MB | layers x width | tokens | `memory` claims | predicted | error | train, core s | predicted | error |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_tried(name, run, known, kept["trainings"]) for name, run in kept["nodes"].items()]
    lines += [
        "",
        "All trainings of one seed; the builtin pilot and the rows of the fit are those that are not `test`:",
        "",
        "| group | text | layers x width | vocabulary | context | batch | tokens | rate | bits per byte | `memory` |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in kept["trainings"]:
        wanted = row["sizes"]
        lines.append(
            f"| {row['group']} | {row['text']} | {wanted['layers']} x {wanted['width']} | {wanted['vocabulary']:,} | {wanted['context']} | "
            f"{wanted['batch_tokens']:,} | {_tokens(row):,} | {wanted['matrix_learning_rate']} | {row['bits_per_byte']:.4f} | "
            f"{row['memory_bits_per_byte']:.4f} |"
        )
    return "\n".join(lines)


def _seconds(wanted: sizes.Sizes, known: rules.Rules, rate: float) -> float:
    """Predicted core seconds of the stage `train`."""
    work = rules.training_flops(wanted) + rules.measuring_flops(wanted)
    return known.train_start + work / (rate * known.share(wanted.width)) + known.step_seconds * wanted.steps


def _tried(name: str, run: dict, known: rules.Rules, rows: list[dict]) -> str:
    """The row of a recipe that ran: what it claims beside what is predicted from its pilot."""
    wanted, first = sizes.Sizes(**run["drivers"]["sizes"]), run["pilot"]
    network = first["bits_per_byte"] * known.score.ratio(rules.weights(wanted), wanted.tokens, run["train_tokens"])
    memory = first["memory_bits_per_byte"] * (network / first["bits_per_byte"]) ** known.memory_exponent
    claimed, spent = run["claimed"], run["seconds"]["train"]
    rate = statistics.median(row["core_rate"] for row in rows if "core_rate" in row)
    seconds = _seconds(wanted, known, rate)
    return (
        f"| {name} | {run['drivers']['text']:.2f} | {wanted.layers} x {wanted.width} | {wanted.tokens:,} | {claimed:.4f} | {memory:.4f} | "
        f"{memory / claimed - 1:+.1%} | {spent:.1f} | {seconds:.1f} | {seconds / spent - 1:+.0%} |"
    )


def _drivers(found: dict, known: rules.Rules, rate: float) -> dict[str, float]:
    wanted = sizes.Sizes(**found["sizes"])
    forward = rules.forward_flops(wanted) / (rate * known.share(wanted.width))
    return {
        "text": found["text"],
        "compared": found["compared"],
        "weights": rules.parameters(wanted) / 1e6,
        "network": plan.CALIBRATED * wanted.context * forward,
        "scored": found["targets"] * forward,
    }


def read() -> dict:
    return json.loads(KEPT.read_text()) if KEPT.is_file() else {"trainings": [], "nodes": {}}


def write(kept: dict) -> None:
    KEPT.write_text(json.dumps(kept, indent=0) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "nodes", "fit"))
    parser.add_argument("--recipe", help="nodes: the sized recipe whose nodes are measured")
    parser.add_argument("--text", action="append", default=[], metavar="NAME=PATH", help="measure: where a text of the grid lies")
    parser.add_argument("--groups", nargs="+", choices=ORDER, default=ORDER, help="measure: which groups (default: all)")
    chosen = parser.parse_args()
    if chosen.what == "measure":
        torch.set_num_threads(1)
        measure(dict(text.split("=", 1) for text in chosen.text), chosen.groups)
    if chosen.what == "fit":
        kept = read()
        files.write_json(rules.NUMBERS, fitted(kept))
        before, rest = PAGE.read_text().split(START)
        PAGE.write_text(f"{before}{START}\n\n{tables(kept)}\n\n{END}{rest.split(END)[1]}")
    if chosen.what == "nodes":
        nodes(chosen.recipe)


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/sizing.py"):
        main()
