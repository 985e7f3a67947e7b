"""What the one script does itself: it runs the stages in their order, then scores the blob that it made.

DATA_PATH is the folder with train/, holdout/ and val/ as artifacts/tokenize has them (./data if it is not set). SEED is that of training.
The stages run in a folder of their own, with the paths that their main() declares. Every process of torchrun runs this code. All of them
take part in some stages; the others run on rank 0 alone. Each finished stage leaves a file. All processes must see one file system.
"""

import importlib
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from stages.lib.node import stage
from stages.lib.tokens import splits
from stages.runtime.base import plugin
from stages.runtime.blob import container
from stages.runtime.scoring import evaluators, harness
from stages.runtime.weights import dequantize

TOGETHER = ("train", "prequant_ttt", "calibrate")  # every process takes part
WITHOUT_METRICS = {"train": ("metrics", "curve"), "quantize": ("metrics", "rows")}  # the code that writes them is not packed
RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def main(folder: Path, script: Path) -> None:
    """Run what run.json beside this code says, in `folder`, which is removed at the end. `script` is the file whose bytes count."""
    start, run = Path.cwd(), json.loads((folder / "code/run.json").read_text())
    tree = run["params"]
    tree["train"]["seed"] = int(os.environ.get("SEED", 1337))
    for node in tree.keys() & set(TOGETHER):
        tree[node]["processes"] = min(SIZE, tree[node].get("ranks", SIZE))  # more than the ranks of prequant_ttt have nothing to do
    if not RANK:
        sizes = {"artifacts/script/metrics.json": {"code_bytes": script.stat().st_size}}  # fill_cap reads it
        for path, content in (run["files"] | sizes).items():
            (folder / path).parent.mkdir(parents=True)
            (folder / path).write_text(json.dumps(content))
        (folder / "artifacts/tokenize").symlink_to(Path(os.environ.get("DATA_PATH", "data")).absolute())
    wait(folder, "begin")
    os.chdir(folder)
    for node, variant in run["stages"]:
        started, call = time.time(), importlib.import_module(f"stages.{node}.__main__").main
        # a stage that runs on rank 0 alone must not see that torchrun started this process
        torchrun = None if node in TOGETHER else os.environ.pop("TORCHELASTIC_RUN_ID", None)
        if node in TOGETHER or not RANK:
            call(**stage.arguments_of(call, tree, variant=variant) | dict.fromkeys(WITHOUT_METRICS.get(node, ())))
        os.environ.update({"TORCHELASTIC_RUN_ID": torchrun} if torchrun else {})
        if not RANK:
            print(f"{node}_seconds:{time.time() - started:.1f}", flush=True)
            if node == "ema" and "prequant_ttt" not in tree:  # the stage is off, and would only pass on its input
                shutil.copytree("artifacts/ema", "artifacts/prequant_ttt")
        wait(folder, node)
    os.chdir(start)
    if not RANK:
        blobs = [path for path in sorted(folder.glob("artifacts/compress/*/model.blob")) if path.stat().st_size]  # 0: no program for it
        shutil.copyfile(min(blobs, key=lambda path: path.stat().st_size), "model.blob")
        if "memory" in tree:
            shutil.copyfile(folder / "artifacts/memory/memory.bin", "memory.bin")
    wait(folder, "blob")
    score(folder, script, run["evaluator"], run["options"])


def wait(folder: Path, name: str, ranks: range = range(1)) -> None:
    """Create this process's file, and wait for the files of `ranks`."""
    (folder / f"{name}.{RANK}").touch()
    while not all((folder / f"{name}.{rank}").exists() for rank in ranks):
        time.sleep(0.01)


def score(folder: Path, script: Path, name: str, options: dict) -> None:
    """Bits per byte of the val split, with the model decoded from model.blob."""
    started, split = time.time(), splits.read(folder / "artifacts/tokenize/val", "val", sidecar=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(2)
    if device == "cuda":
        torch.set_default_device(device)
    torch.set_deterministic_debug_mode("default" if device == "cuda" else "error")
    model, memory = container.unpack(Path("model.blob").read_bytes()), Path("memory.bin")
    model = dequantize.build(dequantize.weights(model.tensors, model.schemes), model.config).to(device)
    model.text = memory.read_bytes() if memory.exists() else b""
    evaluator = evaluators.build(plugin.load("evaluators", name), model, options)
    order = getattr(evaluator, "coding_order", None)
    number = order.shares if order else 1 if getattr(evaluator, "carries", True) else SIZE
    coded, nats = split.tokens, np.zeros(len(split.tokens) - 1)
    if order:
        targets = order.targets(np.asarray(coded))
        coded = np.asarray(coded)[np.append(0, targets)]
    for part in range(RANK, number, SIZE):  # a share, or the part of this process
        nats += np.nan_to_num(harness.score(evaluator, coded, part=(part, number)).nats)
    if order:  # sums of the same numbers in another order differ in their last bit
        nats[targets - 1] = nats.copy()
    np.save(folder / f"nats.{RANK}.npy", nats)
    wait(folder, "score", range(0 if RANK else SIZE))  # rank 0 waits for all, because it removes the folder
    if not RANK:
        nats = sum(np.load(path) for path in sorted(folder.glob("nats.*")))
        bits, seconds = nats.sum() / math.log(2) / int(split.byte_counts[1:].sum()), time.time() - started
        code, coded = (path.stat().st_size for path in (script, Path("model.blob")))
        print(f"Code size: {code} bytes\nTotal submission size: {code + coded + len(model.text)} bytes")
        print(f"final val_loss:{nats.mean()} val_bpb:{bits} eval_time:{1000 * seconds:.0f}ms", flush=True)
        shutil.rmtree(folder)
