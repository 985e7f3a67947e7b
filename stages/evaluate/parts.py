"""Evaluate in parts, over processes and GPUs. Finished parts are kept under scratch/evaluate/, so a killed evaluation can continue.

This is only for evaluators that carry nothing from chunk to chunk, and for shares of documents that know nothing of each other; the joined
ledgers equal that of one process, bit for bit. Other evaluators adapt from the first token to the last, so they run in one process, and a
killed run starts from the beginning.
"""

import hashlib
import json
import math
import os
import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.lib.node import files, parallel, scratch
from stages.lib.referee import artifact

PART_TARGETS = 4_000_000  # a killed run loses at most this many targets per process
THREADS = 2  # of one process on the CPU: the default of submission.pyz


def visible_gpus() -> int:
    """How many GPUs torch sees. Without NVIDIA's driver there is none, and to import torch takes a second."""
    if not os.path.exists("/dev/nvidiactl"):
        return 0
    import torch

    return torch.cuda.device_count()


def divide(num_targets: int, *, carries: bool, gpus: int, shares: int = 1) -> tuple[int, int]:
    """(processes, parts) for a stream of `num_targets` targets. An evaluator that carries anything from chunk to chunk has a part for each
    of its shares."""
    processes = gpus or max(parallel.workers() // THREADS, 1)
    return (min(processes, shares), shares) if carries else (processes, processes * math.ceil(num_targets / (processes * PART_TARGETS)))


def score(
    pyz: Path, tokens: np.ndarray, *, told: dict, processes: int, parts: int, gpus: int, folder: Path, progress: bool
) -> artifact.Claim:
    """The whole claim. The seconds are those of all parts divided by the number of processes."""
    text = hashlib.sha256(np.ascontiguousarray(tokens)).hexdigest()
    key = scratch.key(files.sha256(pyz), told, parts, text)
    free: queue.SimpleQueue = queue.SimpleQueue()
    for number in range(processes):
        free.put(number if gpus else None)

    def run(part: int) -> artifact.Claim:
        path = work.path / f"part_{part:04d}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                return artifact.Claim(kept["nats"], float(kept["seconds"]), json.loads(str(kept["facts"])))
        gpu = free.get()
        try:
            result = artifact.claim(pyz, tokens, part=(part, parts), gpu=gpu, **told)
        finally:
            free.put(gpu)
        with files.atomic(path) as partial, open(partial, "wb") as handle:
            np.savez(handle, nats=result.nats, seconds=result.seconds, facts=json.dumps(result.facts))
        return result

    with scratch.Folder(folder / key).locked() as work, ThreadPoolExecutor(processes) as pool:
        results = list(tqdm(pool.map(run, range(parts)), total=parts, desc="evaluate", unit=" parts", disable=not progress))
        nats = np.full(len(tokens) - 1, np.nan)
        for result in results:
            scored = np.isfinite(result.nats)
            if np.isfinite(nats[scored]).any():
                raise AssertionError("two parts scored the same target")
            nats[scored] = result.nats[scored]
        if not np.isfinite(nats).all():
            raise AssertionError("the parts do not cover every target")
        work.remove()
    return artifact.Claim(nats, sum(result.seconds for result in results) / processes, results[0].facts)
