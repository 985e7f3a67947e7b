"""What the one script does itself: where things are, whose turn it is, and the score of the blob.

    DATA_PATH   folder with train/, holdout/, val/ as artifacts/tokenize has them; ./data if it is not set
    SEED        of the training; 1337 if it is not set. The script is the same for every seed

Writes model.blob, and a folder of what the stages hand to each other. Every process of torchrun runs all of it: stages in which all take
part, they do together; the others only rank 0, which leaves a file for each stage that is done.
"""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from stages.lib.data import tokens
from stages.runtime import container, dequantize, harness, plugin

RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
SEED = int(os.environ.get("SEED", 1337))
DATA = Path(os.environ.get("DATA_PATH", "data"))
TORCHRUN = "TORCHELASTIC_RUN_ID"
FOLDER = Path(f"run-{os.getppid() if TORCHRUN in os.environ else os.getpid()}")  # the processes have one parent


def say(line: str) -> None:
    """A line of the log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def stage(name: str, together: bool) -> Iterator[None]:
    """One stage, of all processes or of rank 0 alone; all go on when it is done."""
    started = time.time()
    alone = None if together else os.environ.pop(TORCHRUN, None)  # what starts processes must see that this one is alone
    yield
    if alone:
        os.environ[TORCHRUN] = alone
    if not RANK:
        say(f"{name}_seconds:{time.time() - started:.1f}")
    finished(name, 0)


def finished(name: str, *ranks: int) -> None:
    """Leave a file for this process, and wait for those of `ranks`."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.{RANK}").touch()
    while not all((FOLDER / f"{name}.{rank}").exists() for rank in ranks):
        time.sleep(0.01)


def score(blob: str, name: str, options: dict) -> None:
    """Bits per byte of the val split, by the model that is decoded from the file that is handed in."""
    if not RANK:
        shutil.copyfile(FOLDER / blob / "model.blob", "model.blob")
    finished("blob", 0)
    started = time.time()
    split = tokens.read(DATA / "val", "val", sidecar=True)
    torch.set_num_threads(2)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.set_default_device("cuda")
    torch.set_deterministic_debug_mode("default" if cuda else "error")
    model = container.unpack(Path("model.blob").read_bytes())
    model = dequantize.build(dequantize.weights(model.tensors, model.schemes), model.config)
    evaluator = plugin.load("evaluators", name).Evaluator(model.to("cuda") if cuda else model, **options)
    carries = getattr(evaluator, "carries", True)
    if not carries or not RANK:
        ledger = harness.score(evaluator, split.tokens, part=(0, 1) if carries else (RANK, SIZE))
        np.save(FOLDER / f"nats.{RANK}.npy", ledger.nats)
    finished("score", *(() if RANK else range(SIZE)))  # rank 0 is the last one in the folder, which it removes
    if not RANK:
        nats = sum(np.nan_to_num(np.load(path)) for path in sorted(FOLDER.glob("nats.*")))
        code, coded = os.path.getsize(__file__), os.path.getsize("model.blob")
        say(f"Code size: {code} bytes\nTotal submission size: {code + coded} bytes")
        say(f"final val_loss:{nats.mean()} val_bpb:{nats.sum() / math.log(2) / int(split.byte_counts[1:].sum())} "
            f"eval_time:{1000 * (time.time() - started):.0f}ms")
        shutil.rmtree(FOLDER)
