"""Sliding windows of 2048 tokens are scored 1.3 times as fast as by the plain method, with the same scores.

The plain method runs every window wholly through the network, computes the logits of all its positions and keeps the last `stride` of them.
Both score with float32 weights, as the artifact does. The claim of 1.3 was measured on a CPU (docs/evaluators.md).
"""

import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu import training, trees
from benchmarks.gpu.context import Context
from stages.runtime.base import plugin
from stages.runtime.scoring import harness
from stages.runtime.tokens import windows

CLAIM, TOLERANCE = 1.3, 1e-4  # times; nats
SIZES, SMALL = (2048, 64, 32), (128, 32, 4)  # window, stride, windows of a pass
BATCHES, ROUNDS = 3, 3


def measure(context: Context) -> None:
    torch.set_default_device(context.device)  # as the artifact does
    for name in ("naive", "pr1855"):
        with context.attempt(name):
            compare(context, name)


def compare(context: Context, name: str) -> None:
    """Sliding against the plain method, with a network of random weights."""
    window, stride, batch = SMALL if context.is_small else SIZES
    with torch.device("cpu"):
        tree = trees.of(name, context.device, small=context.is_small)
        model = training.random_model(tree, context.device)
        tokens = training.random_tokens(tree["vocabulary"]["size"], window + BATCHES * batch * stride + 1)
    evaluator = plugin.load("evaluators", "sliding").Evaluator(model, window=window, stride=stride, batch=batch)
    programs = {
        "plain": lambda: plain(model, tokens, window=window, stride=stride, batch=batch),
        "sliding": lambda: harness.score(evaluator, tokens).nats,
    }
    results = {program: call() for program, call in programs.items()}  # not counted: it starts libraries and allocates
    found = float(np.abs(results["plain"] - results["sliding"]).max())
    context.note(f"{name}: largest difference of the scores", found, "nats", goal=f"{TOLERANCE:g}", holds=found <= TOLERANCE)
    seconds = {program: [] for program in programs}
    for _ in range(ROUNDS):
        for program, call in programs.items():
            started = time.perf_counter()
            call()  # its scores are on the CPU at the end, so the device is done
            seconds[program].append(time.perf_counter() - started)
    middle = {program: statistics.median(values) for program, values in seconds.items()}
    for program, value in middle.items():
        context.note(f"{name}: {program}, window {window}, stride {stride}, n = {ROUNDS}", (len(tokens) - 1) / value, "targets/s")
    ratio = middle["plain"] / middle["sliding"]
    goal = {} if context.is_small else {"goal": f"{CLAIM:g}", "holds": ratio >= CLAIM}
    context.note(f"{name}: sliding against plain", ratio, "times as fast", **goal)


def plain(model, tokens: np.ndarray, *, window: int, stride: int, batch: int) -> np.ndarray:
    """Nats of every target."""
    stream = torch.from_numpy(tokens.astype(np.int64)).to(torch.get_default_device())
    plan, nats = windows.plan(len(tokens) - 1, window=window, stride=stride), []
    with torch.no_grad():
        for i in range(0, len(plan), batch):
            chunk = plan[i : i + batch]
            logits_BTV = model(windows.inputs(stream, chunk, window))
            loss_N = F.cross_entropy(logits_BTV.flatten(0, 1), windows.targets(stream, chunk, window).flatten(), reduction="none")
            nats.append(windows.scored_rows(loss_N.view(len(chunk), window, 1), chunk)[:, 0])
    return torch.cat(nats).cpu().numpy()
