"""Quantizing the 36 million weights of pr1855, given their statistics, takes at most 5 seconds on a GPU.

The problem and the clock are those of benchmarks/quantize_speed.py. The first round includes the start of the libraries.
"""

import torch

from benchmarks import quantize_speed
from benchmarks.gpu import trees
from benchmarks.gpu.context import Context

ROUNDS, GOAL_SECONDS = 2, 5.0


def measure(context: Context) -> None:
    for method, more in (("GPTQ, as published", {}), ("entropy-constrained", quantize_speed.ENTROPY)):
        with context.attempt(method):
            tree = trees.of("pr1855", context.device, small=context.is_small, more=more)
            found, bits = quantize_speed.seconds(tree, torch.device(context.device), ROUNDS)
            for number, seconds in enumerate(found, 1):
                goal = {} if context.is_small else {"goal": f"{GOAL_SECONDS:g} s", "holds": seconds <= GOAL_SECONDS}
                context.note(f"{method}, round {number}", round(seconds, 2), "s", **goal)
            context.note(f"{method}: estimated size", bits, "bits per weight")
