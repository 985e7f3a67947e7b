"""A training that is killed continues from its checkpoint to the same loss; on the CPU to the same bits.

The recipe pr1855 in small trains to its end, and again in another folder, where it is killed after a step and started once more. On a GPU
sums of gradients may come in any order, so the losses are compared with a tolerance.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.gpu import training, trees
from benchmarks.gpu.context import Context
from stages.lib.node import files, tensors

KILLED_AFTER, STEPS = 9, 24
TOLERANCE = {"cpu": 0.0, "cuda": 1e-2}  # nats
LOOK = 0.002  # seconds between two looks for the checkpoint


def measure(context: Context) -> None:
    tree = trees.of(
        "pr1855", context.device, small=True, more={"train.steps": STEPS, "train.checkpoint_seconds": 0.0, "train.compile": "never"}
    )
    folders = Path("whole"), Path("killed")
    for folder in folders:
        training.write_tokens(folder, tree["vocabulary"]["size"], train=100_000, holdout=5_000)
        (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    whole, killed = folders
    finish(train(whole))
    step = kill(train(killed), killed, context)
    context.note("killed after step", step, f"of {STEPS}", goal=f"{KILLED_AFTER} or later", holds=KILLED_AFTER <= step < STEPS)
    said = finish(train(killed))
    context.note("continued", "from a checkpoint" if "from step 0" not in said else "from step 0", holds="from step 0" not in said)
    before, after = (files.read_json(folder / "artifacts/train/metrics.json") for folder in folders)
    limit = TOLERANCE[context.device]
    found = abs(before["loss_nats"] - after["loss_nats"])
    context.note("difference of the last losses", found, "nats", goal=f"{limit:g}", holds=found <= limit)
    weights = [tensors.load(folder / "artifacts/train/model.safetensors")[0] for folder in folders]
    same = all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    context.note("weights", "equal to the bit" if same else "not equal to the bit", holds=same if context.is_small else None)


def train(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=folder, stderr=subprocess.PIPE, text=True, env=os.environ.copy())


def finish(process: subprocess.Popen) -> str:
    """What it said. RuntimeError with its last line if it failed."""
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"the training ended with code {process.returncode}: {said.strip().splitlines()[-1:]}")
    return said


def kill(process: subprocess.Popen, folder: Path, context: Context) -> int:
    """Kill it as soon as it has saved the state after KILLED_AFTER steps or more; the last saved step."""

    def saved() -> list[int]:
        return [int(path.stem.removeprefix("step_")) for path in (folder / "scratch/train").glob("*/step_*.safetensors")]

    while not any(step >= KILLED_AFTER for step in saved()):
        if process.poll() is not None or context.seconds_left() < 0:
            raise RuntimeError(f"no checkpoint appeared; the training ended with code {process.returncode}")
        time.sleep(LOOK)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return max(saved())
