"""Where the time of a training step goes, and how much of the hardware's matrix speed it uses.

    python benchmarks/training_speed.py                    the default on this machine's CPU
    python benchmarks/training_speed.py --core             the same in CPU time of one thread, which other load hardly changes
    python benchmarks/training_speed.py pr1855 naive       published stacks at full size: meant for a GPU

Random tokens, real sizes. Each part of a step is timed by itself, n steps after the first ones, which are not counted; on a GPU
the device is waited for after each part, which a real run does not do. Medians; shares are of the median step. The bound is the best
matrix product measured in the same run.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from stages.lib.node import launch, params
from stages.lib.tokens.stream import Stream
from stages.recipes import catalog
from stages.runtime.base import plugin
from stages.runtime.network.config import ModelConfig
from stages.runtime.network.gpt import GPT, initialise
from stages.train import __main__ as train
from stages.train import loop, numerics
from stages.train.prefetch import Prefetcher

PARTS = ("loader", "forward", "backward", "optimizer", "averages")
TOKENS = 20_000_000  # of random text
DOCUMENT = 1000  # tokens of one


def measure(name: str, tree: dict, *, steps: int, discarded: int, now: Callable[[], float]) -> None:
    """Print the table of one stack."""
    settings, sizes = params.section(tree, train.TrainSettings), dict(tree["model"])
    backend = sizes.pop("attention_backend")
    config = ModelConfig(vocabulary_size=tree["vocabulary"]["size"], **sizes)
    with launch.world(settings.device, threads=settings.threads) as world:
        precision = numerics.resolve(settings.precision, world.device.type)
        model = GPT(config)
        initialise(model, generator=torch.Generator().manual_seed(settings.seed))
        numerics.store(model, precision)
        model.attention_backend = backend
        run = loop.start(model.to(world.device), settings, world)
        ids = np.random.default_rng(0).integers(4, config.vocabulary_size, TOKENS).astype(np.uint16)
        ids[::DOCUMENT] = 1
        loader = plugin.load_from(train.LOADERS, settings.loader).Loader(
            Stream([ids], name="random", vocabulary_size=config.vocabulary_size),
            sequence_length=settings.sequence_length,
            batch_tokens=settings.batch_tokens,
            seed=settings.seed,
            section="train",
        )
        batches = Prefetcher(loader, world, part_tokens=None, is_ahead=world.device.type == "cuda")
        model.progress()  # with the recurrence, where there is one
        seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        for step in range(discarded + steps):
            for part, took in one_step(run, batches, step, precision, world, now).items():
                if step >= discarded:
                    seconds[part].append(took)
        whole = [sum(parts) for parts in zip(*seconds.values(), strict=True)]
        report(name, seconds, whole, run, settings, world, precision)


def one_step(run: loop.Run, batches: Prefetcher, step: int, precision: str, world: launch.World, now: Callable[[], float]) -> dict:
    """Seconds of each part of a step, by the clock `now`."""
    out, clock = {}, now()

    def lap(part: str) -> None:
        nonlocal clock
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        out[part], clock = now() - clock, now()

    (batch,) = batches.parts(step)
    lap("loader")
    with numerics.cast_at_use(precision, world.device.type):
        nats = run.loss(batch.inputs, batch.targets, batch.cu_seqlens, batch.max_seqlen)
    lap("forward")
    run.model.zero_grad(set_to_none=True)
    nats.backward()
    lap("backward")
    run.optimizers.step(scale=1.0, momentum=0.95, taper=1.0)
    lap("optimizer")
    run.averages.update(step + 1, 1.0)
    lap("averages")
    return out


def report(name, seconds, whole, run, settings, world, precision) -> None:
    middle = statistics.median(whole)
    parameters = sum(weight.numel() for weight in run.model.parameters())
    print(
        f"\n{name}: {parameters:,} parameters, {settings.batch_tokens:,} tokens per step, {precision}, {world.device.type}\n\n"
        "| part | ms | s.d. | share |\n|---|---:|---:|---:|"
    )
    for part, values in (*seconds.items(), ("step", whole)):
        own = statistics.median(values)
        print(f"| {part} | {1e3 * own:.2f} | {1e3 * statistics.stdev(values):.2f} | {own / middle:.1%} |")
    rate, flops = run.hardware.matmul_rate, run.hardware.looped * settings.batch_tokens
    print(
        f"\n{settings.batch_tokens / middle:,.0f} tokens/s; {flops / middle / 1e9:,.1f} of {rate / 1e9:,.1f} GFLOP/s that products of "
        f"matrices reached in the time that passed: {flops / middle / rate:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["default"], help="recipes, or default: params.yaml as it is")
    parser.add_argument("--steps", type=int, default=30, help="timed steps (default: %(default)s)")
    parser.add_argument("--discarded", type=int, default=5, help="steps before them (default: %(default)s)")
    parser.add_argument("--batch-tokens", type=int, help="instead of the recipe's, for one GPU of eight: 98304")
    parser.add_argument("--core", action="store_true", help="CPU time of one thread instead of the time that passes")
    arguments = parser.parse_args()
    for name in arguments.recipes:
        tree = params.read(ROOT / "params.yaml")
        if name != "default":
            tree = catalog.applied(catalog.values(name, tree), tree)
        if arguments.batch_tokens:
            tree["train"]["batch_tokens"] = arguments.batch_tokens
        if arguments.core:
            tree["train"] |= {"threads": 1, "device": "cpu"}
        measure(
            name, tree, steps=arguments.steps, discarded=arguments.discarded, now=time.process_time if arguments.core else time.perf_counter
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, {platform.machine()}"
    print(f"\nn = {arguments.steps} steps, {device}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/training_speed.py"):
        main()
