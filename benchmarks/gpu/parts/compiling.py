"""A training step of every recipe compiles, forward and backward, to one graph for each state of recurrence and rounding.

The priming of the stage `train` runs full steps in each state, on different batches. More graphs than states are recompilations, which
would cost time in the middle of a training. Sizes are small, as the number of graphs and their operations do not depend on them; stacks
compile side by side. In the CPU form the compiler ends before it generates code (backend aot_eager), and only two stacks are tried.
"""

import functools
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.gpu.context import Context

STEPS = 3  # of each state
TOGETHER, THREADS = 8, "2"  # stacks at a time; processes that generate the code of each, which would else be one for each core


def measure(context: Context) -> None:
    from stages.recipes import catalog

    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = THREADS
    first = ["pr1855", "naive"]
    names = first if context.is_small else [*first, *(name for name in catalog.stacks() if name not in first)]
    pool = ProcessPoolExecutor(1 if context.is_small else TOGETHER, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    waiting = {pool.submit(compiled, name, context.device): name for name in names}
    for done in as_completed(waiting):
        name = waiting[done]
        if (error := done.exception()) is not None:
            context.note(f"{name}: compiles", str(error).strip().splitlines()[-1][:300] or type(error).__name__, holds=False)
            continue
        states, graphs, seconds = done.result()
        context.note(f"{name}: graphs", graphs, goal=f"{states}, one for each state", holds=graphs == states)
        context.note(f"{name}: {STEPS} steps of each state, compiling included", round(seconds, 1), "s")


def compiled(name: str, device: str) -> tuple[int, int, float]:
    """States of the training, graphs that were made in them, and seconds. The loss is compiled as a whole, so a break is an error."""
    import torch

    from benchmarks.gpu import training, trees
    from stages.lib.node import params
    from stages.runtime.network.gpt import GPT
    from stages.train.qat import Rounding
    from stages.train.settings import TrainSettings

    tree = trees.of(name, device, small=True, more={"train.priming_steps": STEPS, "train.steps": 1, "train.compile": "always"})
    settings = params.section(tree, TrainSettings)
    with torch.device("meta"):
        rounded = Rounding(GPT(training.model_config(tree)), settings.qat).layers
    if device == "cpu":
        torch.compile = functools.partial(torch.compile, backend="aot_eager")  # in this process, which ends with the part
    begun = time.perf_counter()
    training.stage_metrics(tree, Path(name))
    states = (1 + ("depth_recurrence" in tree["model"]["features"])) * (1 + bool(rounded))
    return states, torch._dynamo.utils.counters["stats"]["unique_graphs"], time.perf_counter() - begun
