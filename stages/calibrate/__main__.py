"""Collect, on calibration text, the Hessian of every quantized matrix and the mean squared gradient of the loss by each of its rows.

This is the slow half of quantization, separate so that bits and methods can be changed without repeating it. The formulas are in
stages/calibrate/hessians.py. The text is from the train or the holdout split, or the model writes it itself (own_text.py). It runs in one
process, or several through torchrun (calibrate.processes), with the same result.
"""

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from tqdm import tqdm

from stages.calibrate import own_text
from stages.calibrate.hessians import Statistics
from stages.lib.node import files, launch, tensors
from stages.lib.node.params import AtLeastOne, Device, Positive, Seed
from stages.lib.node.stage import Input, Metrics, Output
from stages.lib.tokens import splits
from stages.lib.tokens.loaders import shuffled
from stages.runtime.weights import dequantize

TOGETHER = 8  # number of sequences that a process reads, or writes, at a time; processes get such portions in turn
PASS_TOKENS = 4096  # tokens of one pass through the network, which bounds the memory


@dataclass(frozen=True)
class CalibrateSettings:
    SECTION: ClassVar[str] = "calibrate"
    source: Literal["train", "holdout", "self"]
    sequences: AtLeastOne
    sequence_length: AtLeastOne
    temperature: Positive
    row_gradients: bool
    seed: Seed
    device: Device
    processes: AtLeastOne
    threads: AtLeastOne


def main(
    settings: CalibrateSettings,
    *,
    weights: Input = "artifacts/prequant_ttt/model.safetensors",
    train_tokens: Input = "artifacts/tokenize/train",
    holdout_tokens: Input = "artifacts/tokenize/holdout",
    statistics: Output = "artifacts/calibrate/hessians.safetensors",
    rows: Output = "artifacts/calibrate/rows.safetensors",
    metrics: Metrics = "artifacts/calibrate/metrics.json",
) -> None:
    state, facts = tensors.load(weights)
    batches = None
    if settings.source != "self":
        text = splits.read(train_tokens if settings.source == "train" else holdout_tokens, settings.source)
        batches = shuffled.Loader(
            text.tokens,
            sequence_length=settings.sequence_length,
            batch_tokens=settings.sequence_length,
            seed=settings.seed,
            section="calibrate",
        )
    if launch.relaunched(settings.processes, "stages.calibrate", settings.device):
        return
    started = time.perf_counter()
    with launch.world(settings.device, threads=settings.threads, section="calibrate") as world:
        found = collect(state, facts["model"], batches, settings, world)
        seconds = time.perf_counter() - started
        if world.is_main:
            tensors.save(statistics, found.hessians(), facts | {"tokens": found.tokens})
            tensors.save(rows, found.rows(), facts | {"tokens": found.tokens})
            files.write_json(
                metrics,
                {
                    "source": settings.source,
                    "tokens": found.tokens,
                    "matrices": len(found.moments),
                    "row_gradients": settings.row_gradients,
                    "seconds": round(seconds, 2),
                    "tokens_per_second": round(found.tokens / seconds),
                    "seconds_per_million_tokens": round(1e6 * seconds / found.tokens, 2),
                    "device": world.device.type,
                    "processes": world.size,
                    "text_sha256": facts["text_sha256"],
                },
            )
            print(f"{len(found.moments)} matrices, {found.tokens:,} tokens ({settings.source}), {found.tokens / seconds:,.0f} a second")


def collect(state: dict, config: dict, batches: shuffled.Loader | None, settings: CalibrateSettings, world: launch.World) -> Statistics:
    """Statistics over all sequences, the same on every process. `batches` have one sequence each; None: the model writes them."""
    model = dequantize.build(state, config).to(world.device)
    found = Statistics(model, row_gradients=settings.row_gradients)
    bar = tqdm(total=settings.sequences, desc="calibrate", unit=" sequences", disable=not world.is_main, mininterval=1.0)
    for portion, first in enumerate(range(0, settings.sequences, TOGETHER)):
        sequences = range(first, min(first + TOGETHER, settings.sequences))
        if portion % world.size == world.rank:
            # seeded by the portion, so that the draws do not depend on which process makes them
            text_seed, label_seed = np.random.SeedSequence([settings.seed, portion]).generate_state(2).tolist()
            if batches is None:
                tokens_BT = own_text.write(
                    model,
                    rows=len(sequences),
                    length=settings.sequence_length,
                    temperature=settings.temperature,
                    generator=torch.Generator().manual_seed(text_seed),
                )
            else:
                tokens_BT = torch.cat([batches.batch(number).inputs for number in sequences])
            labels = torch.Generator(world.device).manual_seed(label_seed)
            for part_BT in tokens_BT.split(max(1, PASS_TOKENS // settings.sequence_length)):
                found.add(part_BT.to(world.device), labels)
        bar.update(len(sequences))
    bar.close()
    found.gather(world)
    return found


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
