"""Adapt the weights to a split once more before quantization, as published (stages/prequant_ttt/procedures.py). When off, pass them on.

`prequant_ttt.split: holdout` is text of the same kind that is never scored. `val` reproduces what #1306, #1399 and #1958 did; the audit's
lineage check then refuses every score of the artifact. One process, or several through torchrun (prequant_ttt.processes).
"""

import sys
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tqdm import tqdm

from stages.lib.node import files, launch, tensors
from stages.lib.node.params import AtLeastOne, Decay, Device, NonNegative, Positive, Share, require
from stages.lib.node.stage import Input, Metrics, Output
from stages.lib.tokens import splits
from stages.prequant_ttt import procedures
from stages.runtime.weights import dequantize


@dataclass(frozen=True)
class AdamW:
    beta1: Decay
    beta2: Decay
    epsilon: Positive


@dataclass(frozen=True)
class PrequantTttSettings:
    SECTION: ClassVar[str] = "prequant_ttt"
    enabled: bool
    split: Literal["holdout", "val"]
    procedure: Literal["synchronous", "single_pass", "federated"]
    ranks: AtLeastOne
    epochs: AtLeastOne
    learning_rate: NonNegative
    learning_rate_floor: Share
    adamw: AdamW
    gradient_clip: NonNegative
    sequence_length: AtLeastOne
    batch_tokens: AtLeastOne
    freeze: procedures.Freeze
    device: Device
    processes: AtLeastOne
    threads: AtLeastOne


def main(
    settings: PrequantTttSettings,
    *,
    before: Input = "artifacts/ema/model.safetensors",
    text: Input = "artifacts/tokenize/${prequant_ttt.split}",
    weights: Output = "artifacts/prequant_ttt/model.safetensors",
    metrics: Metrics = "artifacts/prequant_ttt/metrics.json",
) -> None:
    check(settings)
    state, facts = tensors.load(before)
    record = {"enabled": settings.enabled, "split": settings.split if settings.enabled else None, "text_sha256": facts["text_sha256"]}
    if not settings.enabled:
        tensors.save(weights, state, facts)
        files.write_json(metrics, record | {"steps": 0, "seconds": 0.0, "epoch_loss_nats": []})
        print("off: the same weights go on")
        return
    split = splits.read(text, settings.split)
    visits = procedures.visits(len(split.tokens), settings)
    if launch.relaunched(settings.processes, "stages.prequant_ttt", settings.device):  # after the checks, so one process reports errors
        return
    started = time.perf_counter()
    with launch.world(settings.device, threads=settings.threads, section="prequant_ttt") as world:
        if settings.split == "val" and world.is_main:
            print("PREQUANT_TTT ADAPTS TO THE VALIDATION SPLIT: NO SCORE OF THIS ARTIFACT WILL BE CERTIFIED AS LEGAL", file=sys.stderr)
        model = dequantize.build(state, facts["model"]).to(world.device)  # a newly built model has its recurrence switched on
        learner = procedures.Learner(model, split.tokens, settings, world)
        losses = _adapt(learner, visits, world)
        if world.is_main:
            seconds = round(time.perf_counter() - started, 2)
            tensors.save(weights, {name: weight.detach().cpu() for name, weight in model.named_parameters()}, facts)
            files.write_json(
                metrics,
                record
                | {
                    "procedure": settings.procedure,
                    "steps": settings.epochs * max(map(len, visits)),  # of the rank with the most steps
                    "seconds": seconds,
                    "epoch_loss_nats": losses,
                    "epoch_learning_rate": procedures.rates(settings),
                    "learning_parameters": learner.learning,
                    "frozen_parameters": sum(map(torch.numel, state.values())) - learner.learning,
                    "device": world.device.type,
                    "processes": world.size,
                },
            )
            print(f"{settings.procedure}: {losses[0]:.4f} nats in the first epoch, {losses[-1]:.4f} in the last, on {settings.split}")


def _adapt(learner: procedures.Learner, visits: list[list[range]], world: launch.World) -> list[float]:
    """`adapt.run` under a progress bar."""
    federated = learner.settings.procedure == "federated"
    steps = sum(map(len, visits[world.rank :: world.size])) if federated else max(map(len, visits))
    bar = tqdm(total=learner.settings.epochs * steps, desc="prequant_ttt", unit=" steps", disable=not world.is_main, mininterval=1.0)

    def report(epoch: int, nats: float) -> None:
        bar.set_postfix(epoch=epoch + 1, loss=f"{nats:.3f}", refresh=False)
        bar.update(1)

    losses = procedures.run(learner, visits, report)
    bar.close()
    return losses


def check(settings: PrequantTttSettings) -> None:
    """ValueError for parameters that do not fit together."""
    require(
        settings.batch_tokens % settings.sequence_length == 0,
        f"prequant_ttt.batch_tokens is {settings.batch_tokens}; it takes a multiple of sequence_length {settings.sequence_length}",
    )
    require(
        settings.processes <= settings.ranks,
        f"prequant_ttt.processes is {settings.processes}; it takes 1 to prequant_ttt.ranks {settings.ranks}, the more follow nothing",
    )
    require(
        settings.procedure != "single_pass" or (settings.ranks, settings.epochs, settings.learning_rate_floor) == (1, 1, 1.0),
        "prequant_ttt.procedure single_pass is one pass at a constant rate; set ranks 1, epochs 1 and learning_rate_floor 1.0",
    )


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
