"""Write what people read about a training: its metrics and its curve. Not part of the one script."""

import csv
from pathlib import Path

import torch

from stages.lib.node import files, launch
from stages.lib.training import schedule
from stages.train import loop
from stages.train.settings import TrainSettings


def write(
    metrics: Path, curve: Path, run: loop.Run, settings: TrainSettings, world: launch.World, chosen: dict, *, text_sha256: str
) -> None:
    """Write both files of a finished run. `chosen` are the programs that it used."""
    write_curve(curve, run.curve)
    files.write_json(metrics, figures(run, settings, world, text_sha256=text_sha256) | chosen)


def write_curve(path: Path, curve: list[dict]) -> None:
    with files.atomic(path) as partial, open(partial, "w", newline="") as handle:
        writer = csv.DictWriter(handle, ["step", "train_loss", "learning_rate_scale", "holdout_bits_per_byte"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)


def figures(run: loop.Run, settings: TrainSettings, world: launch.World, *, text_sha256: str) -> dict:
    recent = [row["train_loss"] for row in run.curve[-20:]]
    clock = loop.clock_of(settings)
    return {
        "steps": run.step,
        "train_seconds": round(run.seconds, 2),
        "budget": clock.budget,
        "spent": clock.spent(run.step, run.seconds),
        "budget_unit": ("virtual " * bool(clock.knots) + "seconds") if clock.in_seconds else "steps",
        # what train.clock needs to repeat a run of real seconds on any machine
        "clock": schedule.record(run.times, run.events) if clock.in_seconds and not clock.knots else None,
        "tokens_per_second": round(run.step * settings.batch_tokens / run.seconds),
        "training_flops_per_token": run.hardware.looped,
        "matmul_flops_per_second": round(run.hardware.matmul_rate),
        "model_flops_utilisation": round(run.flops / run.seconds / run.hardware.matmul_rate, 4),
        "loss_nats": sum(recent) / len(recent),
        "holdout_bits_per_byte": run.curve[-1]["holdout_bits_per_byte"],
        "parameters": sum(weight.numel() for weight in run.model.parameters()),
        "seed": settings.seed,
        "processes": world.size,
        "device": world.device.type,
        "gpu": launch.gpu_name(world.device),
        "torch": torch.__version__,
        "text_sha256": text_sha256,
    }
