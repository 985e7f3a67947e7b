"""Run the stages that follow a training, once as published and once with our quantizer and coder, and write the table of both.

Everything happens in one folder, which has its own params.yaml for each way. Steps that finished are in done.json.
"""

import csv
import functools
import math
import os
import subprocess
import sys
from pathlib import Path

import yaml

from stages.adopt import plan
from stages.lib.blob import counted
from stages.lib.node import closure, files, scratch
from stages.lib.node.params import require

DONE = "done.json"
TRIES, NEAR_DECIBELS = 6, 0.03
DECIBELS_PER_BIT = 20 * math.log10(2)
BEFORE = (
    ("prepare",),
    ("vocabulary",),
    ("tokenize", "train"),
    ("tokenize", "holdout"),
    ("tokenize", "val"),
    ("train",),
    ("plain_score", "train"),
    ("ema",),
    ("prequant_ttt",),
    ("calibrate",),
    ("sensitivity",),
    ("memory",),
    ("script",),
    ("fill_cap",),
)


class Steps:
    """The steps in one folder; a step that finished with the same key is not run again."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        kept = files.read_json(folder / DONE) if (folder / DONE).is_file() else {}
        self.done = kept["done"] if kept.get("key") == key else {}

    def once(self, name: str, run) -> None:
        """Run a step unless it has finished, and keep what it returns (JSON)."""
        if name not in self.done:
            self.done[name] = run()
            files.write_json(self.folder / DONE, {"key": self.key, "done": self.done})
        return self.done[name]

    def stage(self, way: str, node: str, *arguments: str, name: str | None = None) -> None:
        self.once(name or " ".join((way, node, *arguments[:1])), lambda: stage(self.folder, f"{way}.yaml", node, *arguments))


def stage(folder: Path, parameters: str, node: str, *arguments: str) -> None:
    """Run one stage in the folder. ValueError if it fails; it has said why."""
    words = [sys.executable, "-m", f"stages.{node}", *arguments, "--params", parameters]
    paths = os.pathsep.join(filter(None, (str(closure.ROOT), os.environ.get("PYTHONPATH"))))
    if subprocess.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, check=False).returncode:
        raise ValueError(f"the step {node} failed, see above; what was finished is kept, give the same command again")


def run(folder: Path, trees: dict[str, dict]) -> None:
    """All steps, and the table. `trees` are the parameters by way."""
    for way, tree in trees.items():
        with files.atomic(folder / f"{way}.yaml") as partial:
            partial.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    steps = Steps(folder, scratch.key(trees, *sorted((closure.ROOT / "stages").rglob("*.py"))))
    for node, *variant in BEFORE:
        steps.stage("ours", node, *variant, *(("--parameters", "ours.yaml") if node == "script" else ()))
    (run_of,) = trees["ours"]["evaluate"]["runs"]
    for way, tree in trees.items():
        if way == "ours" and tree["quantize"]["entropy"]["target_bytes"] is None:
            steps.once("equal error", functools.partial(equal_error, folder, tree))
        else:
            steps.stage(way, "quantize", *quantized(way), name=f"{way} quantize")
        for name in counted.shipped(tree["package"]["blob"], tree["compress"]["runs"]):
            steps.stage(way, "compress", name, "--model", f"artifacts/{way}/model.safetensors")
        steps.stage(
            way, "plain_score", "quantize", "--model", f"artifacts/{way}/model.safetensors",
            "--metrics", f"artifacts/{way}/plain/metrics.json",
        )  # fmt: skip
    steps.stage("ours", "package", "--model", "artifacts/ours/model.safetensors")
    steps.stage("ours", "evaluate", run_of)
    steps.stage("ours", "audit", run_of, "--quantization", "artifacts/ours/metrics.json")
    text = table(folder, trees)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)


def quantized(way: str) -> list[str]:
    """Where the quantized model of one way goes."""
    paths = {"codes": "model.safetensors", "metrics": "metrics.json", "rows": "tensors.csv"}
    return [word for option, name in paths.items() for word in (f"--{option}", f"artifacts/{way}/{name}")]


def decibels(folder: Path, way: str) -> float:
    """10 log10 of the relative squared error of the layers' outputs, the mean over the matrices."""
    with open(folder / f"artifacts/{way}/tensors.csv", encoding="utf-8", newline="") as handle:
        errors = [float(row["relative_error"]) for row in csv.DictReader(handle) if float(row["relative_error"]) > 0]
    require(bool(errors), f"no matrix of the {way} way is quantized, so there is no error to compare; lower quantize.min_elements")
    return sum(10 * math.log10(error) for error in errors) / len(errors)


def equal_error(folder: Path, tree: dict) -> list[dict]:
    """Quantize with the fewest bits whose mean error is at most the published one, and near it. Returns the tries.

    A bit more is 6.02 dB less. If no try is near enough, the one with the fewest bits that is not worse stands.
    """
    goal = decibels(folder, "published")
    bits = files.read_json(folder / "artifacts/published/metrics.json", required=("coded_bits_per_weight",))["coded_bits_per_weight"]
    tries: list[dict] = []

    def attempt(bits: float) -> float:
        """The error with so many bits per weight, in decibels."""
        entropy = tree["quantize"]["entropy"] | {"bits_per_weight": bits}
        with files.atomic(folder / "try.yaml") as partial:
            partial.write_text(
                yaml.safe_dump(tree | {"quantize": tree["quantize"] | {"entropy": entropy}}, sort_keys=False), encoding="utf-8"
            )
        stage(folder, "try.yaml", "quantize", *quantized("ours"))
        tries.append({"bits_per_weight": bits, "error_decibels": decibels(folder, "ours")})
        print(f"{bits:.3f} bits per weight: {tries[-1]['error_decibels']:.2f} dB, published {goal:.2f} dB", flush=True)
        return tries[-1]["error_decibels"]

    for _ in range(TRIES):
        error = attempt(round(bits, 4))
        if 0 <= goal - error <= NEAR_DECIBELS:
            return tries
        bits += (error - goal + NEAR_DECIBELS / 2) / DECIBELS_PER_BIT
    good = [found["bits_per_weight"] for found in tries if found["error_decibels"] <= goal]
    require(bool(good), f"{TRIES} tries gave no error of at most {goal:.2f} dB; choose quantize.entropy.target_bytes with --set")
    attempt(min(good))
    return tries


def table(folder: Path, trees: dict[str, dict]) -> str:
    """The checkpoint, the published way and ours, and what is certified, as markdown."""
    rows = [
        "| way | bytes of weights | bits per weight | layer error, dB | bits per byte of val, plain windows |",
        "|---|---:|---:|---:|---:|",
    ]
    plain = files.read_json(folder / "artifacts/plain_score/train/metrics.json")["bits_per_byte"]
    size = sum(path.stat().st_size for path in (folder / plan.WEIGHTS).glob("final.*"))
    rows.append(f"| the checkpoint | {size:,} | | | {plain:.4f} |")
    made = {}
    for way, tree in trees.items():
        found = [
            files.read_json(folder / f"artifacts/compress/{name}/metrics.json")
            for name in counted.shipped(tree["package"]["blob"], tree["compress"]["runs"])
        ]
        available = [metrics for metrics in found if metrics["blob_bytes"]]
        made[way] = min(available, key=lambda metrics: metrics["blob_bytes"]) if available else None
        bits = files.read_json(folder / f"artifacts/{way}/plain/metrics.json")["bits_per_byte"]
        coded = f"{made[way]['blob_bytes']:,} | {made[way]['bits_per_weight']:.3f}" if made[way] else "not available here | "
        label = "as published" if way == "published" else "ours"
        rows.append(f"| {label} ({', '.join(metrics['run'] for metrics in found)}) | {coded} | {decibels(folder, way):.2f} | {bits:.4f} |")
    package = files.read_json(folder / "artifacts/package/metrics.json")
    (run_of,) = trees["ours"]["evaluate"]["runs"]
    certificate = files.read_json(folder / f"artifacts/audit/{run_of}/certificate.json")
    at_most = certificate["at_most_bits_per_byte"]
    lines = ["", *rows, ""]
    if made["published"] and made["ours"]:
        lines.append(f"Ours needs {made['ours']['blob_bytes'] / made['published']['blob_bytes']:.3f} of the published bytes.")
    lines.append(
        f"The artifact, artifacts/package/submission.pyz, counts {package['artifact_bytes']:,} of {package['cap_bytes']:,} bytes, "
        f"with {package['code_bytes']:,} of code. {run_of}: {certificate['bits_per_byte']:.4f} bits per byte, "
        + (f"at most {at_most:.4f} with 99 % confidence; " if at_most is not None else "")
        + f"{certificate['verdict']}. It was trained elsewhere, which the audit cannot rule on: artifacts/audit/{run_of}/certificate.html."
    )
    return "\n".join(lines) + "\n"
