"""Tokens per second and hardware utilisation of pr1855 and naive at full published size, on random tokens.

It is the stage `train` itself, with priming as published; the clock runs only for the steps behind it. Model FLOPs are counted as in
stages/lib/training/flops.py. The utilisation (MFU) is their share of the best matrix product that was measured in the same process, and
their share of the dense bfloat16 rate in NVIDIA's data sheet. The published pace is the average of a whole run on eight H100.
"""

import time
from pathlib import Path

import torch

from benchmarks.gpu import training, trees
from benchmarks.gpu.context import Context

SHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # FLOP/s: data sheets of H100 SXM, H200 SXM, A100
CASES = (("pr1855", True), ("naive", True), ("pr1855", False))  # whether the recurrence is on, which it is for 65 % of the time
STEPS, PRIMING = {"pr1855": 10, "naive": 20}, 2
PUBLISHED_GPUS = 8
PROGRAMS = {"compiled": "compiled", "fused_loss": "fused loss"}


def measure(context: Context) -> None:
    for name, recurs in CASES:
        what = name if name == "naive" else f"{name}, recurrence {'on' if recurs else 'off'}"
        with context.attempt(what):
            one(context, name, what, recurs=recurs)


def one(context: Context, name: str, what: str, *, recurs: bool) -> None:
    """Measure one network."""
    tree = trees.of(name, context.device, small=context.is_small)
    features = {kind: options for kind, options in tree["model"]["features"].items() if recurs or kind != "depth_recurrence"}
    steps, priming = (4, 1) if context.is_small else (STEPS[name], PRIMING)
    changes = {"model.features": features} | (trees.recurs_from_the_start(tree) if recurs else {})
    changes |= {
        "train.steps": steps,
        "train.seconds": None,
        "train.reserve_seconds": 0.0,
        "train.clock": [],
        "train.priming_steps": priming,
        "train.holdout_every": steps,
        "train.checkpoint_seconds": 3600.0,
        "train.compile": "never" if context.is_small else "always",  # so few steps would not be worth it to `auto`
    }
    started = time.perf_counter()
    found = training.stage_metrics(trees.of(name, context.device, small=context.is_small, more=changes), Path(what.replace(", ", "-")))
    torch._dynamo.reset()
    whole, done = time.perf_counter() - started, found["model_flops_utilisation"] * found["matmul_flops_per_second"]
    goal = "" if context.is_small else f"published: {pace(name):,.0f} on each H100"
    context.note(f"{what}: speed", found["tokens_per_second"], "tokens/s", goal=goal)
    context.note(f"{what}: share of the best matrix product", found["model_flops_utilisation"], "MFU")
    for gpu, rate in SHEET.items():
        if gpu in (found["gpu"] or ""):
            context.note(f"{what}: share of {rate / 1e12:.0f} TFLOP/s (data sheet of {gpu})", done / rate, "MFU")
    context.note(f"{what}: the best matrix product", found["matmul_flops_per_second"] / 1e12, "TFLOP/s")
    programs = [found["precision"], found["attention_backend"], *(text for key, text in PROGRAMS.items() if found[key])]
    context.note(f"{what}: programs", ", ".join(programs))
    context.note(f"{what}: start, compiling, priming and {steps} steps", round(whole, 1), "s")
    if not context.is_small:
        context.note(f"{what}: most memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        torch.cuda.reset_peak_memory_stats()


def pace(name: str) -> float:
    """Tokens per second and GPU of the published run, from its last step and its time."""
    tree = trees.of(name, "cpu", small=False)
    step, seconds = tree["train"]["clock"][-1]
    return step * tree["train"]["batch_tokens"] / seconds / PUBLISHED_GPUS
