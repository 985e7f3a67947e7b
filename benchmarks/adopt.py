"""Seconds, memory and bytes of `python -m stages.adopt` at full size: a checkpoint of 36 M random weights in the published names.

    python benchmarks/adopt.py --text wikipedia.jsonl.xz --tokenizer fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model

Nobody's checkpoint is part of this repository, so the weights are random: as our own training begins, plus normal noise, with a spread of
e^0.3 between rows, as trained matrices have. Random weights do not predict text, so only bytes, layer error and seconds mean something. Few
tokens are scored, because windows of 2,048 tokens over 36 M weights take a second per thousand tokens, which says nothing about adoption.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(Path(__file__).parent):  # a script: its folder's modules could hide others
    sys.path[0] = str(ROOT)

import argparse
import os
import platform
import resource
import tempfile
import time
from collections import defaultdict

import torch
import yaml

from stages.adopt import __main__ as adopt
from stages.adopt import packing
from stages.lib.node import files, params
from stages.recipes import __main__ as recipes
from stages.recipes import catalog, describe
from stages.runtime.network.gpt import GPT, initialise
from tests.published_names import BANKED, published

SMALL = {  # what is measured and certified: enough to run every step
    "calibrate.sequences": 16,
    "audit.replayed": 8,
    "audit.round_trip": 4,
    "audit.memorization_tokens": 512,
    "evaluate.runs.sliding.options.stride": 1024,
}

DOCUMENTS = {"prepare.val_documents": 2, "prepare.holdout_documents": 2}


def tokens(folder: Path, text: Path, tokenizer: Path, tree: dict, *, train_bytes: int) -> Path:
    """Shards of the contest's form, with their tokenizer, from documents of `text`."""
    given = {
        "prepare.source": "local",
        "prepare.path": str(text.resolve()),
        "prepare.max_bytes": train_bytes,
        "prepare.split": "first",
        **DOCUMENTS,
        "vocabulary.source": "file",
        "vocabulary.path": str(tokenizer.resolve()),
    }
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(catalog.applied(given, tree), sort_keys=False), encoding="utf-8")
    for node in (("prepare",), ("vocabulary",), ("tokenize", "train"), ("tokenize", "holdout"), ("tokenize", "val")):
        packing.stage(folder, "params.yaml", *node)
    out = folder / "shards"
    out.mkdir()
    for name in ("train", "val"):
        for path in (folder / "artifacts/tokenize" / name).glob("*.bin"):
            path.rename(out / path.name)
    (folder / "artifacts/vocabulary/tokenizer.model").rename(out / "tokenizer.model")
    return out


def checkpoint(path: Path, tree: dict, stack: str) -> int:
    """Write random weights of the stack's network by their published names; returns how many there are."""
    net, generator = GPT(describe.network(tree).config), torch.Generator().manual_seed(0)
    initialise(net, generator=generator)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() == 2:
                spread = torch.exp(0.3 * torch.randn(len(weight), 1, generator=generator))
                weight.add_(torch.randn(weight.shape, generator=generator) / weight.size(1) ** 0.5).mul_(spread)
    torch.save(published(net, banked=stack in BANKED), path)
    return sum(weight.numel() for weight in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="documents, as prepare.path takes them")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a SentencePiece model of the stack's kind")
    parser.add_argument("--stack", default="pr1855")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--train-bytes", type=int, default=3_000_000)
    chosen = parser.parse_args()
    tree = catalog.applied(recipes.scaled(chosen.stack, chosen.scale, params.read(ROOT / "params.yaml")), params.read(ROOT / "params.yaml"))
    seconds: dict[str, float] = defaultdict(float)
    stage = packing.stage

    def timed(folder: Path, parameters: str, node: str, *arguments: str) -> None:
        started = time.perf_counter()
        stage(folder, parameters, node, *arguments)
        seconds[f"{node} ({parameters.removesuffix('.yaml')})"] += time.perf_counter() - started

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = tokens(folder / "text", chosen.text, chosen.tokenizer, tree, train_bytes=chosen.train_bytes)
        weights = checkpoint(folder / "final_model.pt", tree, chosen.stack)
        packing.stage = timed
        os.chdir(ROOT)
        given = [f"--set={path}={value}" for path, value in (SMALL | DOCUMENTS).items()]
        started = time.perf_counter()
        words = ["--stack", chosen.stack, "--tokens", str(shards), "--scale", chosen.scale, "--out", str(folder / "out")]
        adopt.main([str(folder / "final_model.pt"), *words, *given])
        total = time.perf_counter() - started
        tries = files.read_json(folder / "out" / packing.DONE)["done"].get("equal error", [])
    calibration = sum(taken for step, taken in seconds.items() if step.startswith("calibrate"))
    print(f"\n{weights:,} weights, {os.cpu_count()} cores ({platform.processor() or platform.machine()}), n = 1")
    print("\n| step | seconds |\n|---|---:|")
    for step, taken in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {step} | {taken:.0f} |")
    print(f"| all but the calibration | {total - calibration:.0f} |")
    print(f"\n{len(tries)} tries for the published error; at most {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
