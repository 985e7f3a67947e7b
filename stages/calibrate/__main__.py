"""Collect, on calibration text, the Hessian of every quantized matrix and how much the loss feels each of its rows.

The slow half of quantization: bits and methods can be swept without doing it again. What is gathered, and its formulas:
stages/lib/quant/hessians.py. The text is of the train or the holdout split, or the model writes it itself (own_text.py). One process,
or several through torchrun (calibrate.processes), with the same result.
"""

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from tqdm import tqdm

from stages.calibrate import own_text
from stages.lib import launch, stage, tensors
from stages.lib.data import tokens
from stages.lib.data.loaders import shuffled
from stages.lib.params import AtLeastOne, Positive, Seed
from stages.lib.quant.hessians import Statistics
from stages.lib.stage import Input, Metrics, Output
from stages.runtime import dequantize

TOGETHER = 8         # sequences that one process reads, or writes, at a time; the processes take turns
PASS_TOKENS = 4096   # of one pass through the network, which bounds the memory


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "calibrate"
    source: Literal["train", "holdout", "self"]
    sequences: AtLeastOne
    sequence_length: AtLeastOne
    temperature: Positive
    row_gradients: bool
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    processes: AtLeastOne
    threads: AtLeastOne


def main(
    settings: Settings,
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
        text = tokens.read(train_tokens if settings.source == "train" else holdout_tokens, settings.source)
        batches = shuffled.Loader(text.tokens, sequence_length=settings.sequence_length, batch_tokens=settings.sequence_length,
                                  seed=settings.seed, section="calibrate")
    launch.relaunch(settings.processes, "stages.calibrate", settings.device)
    started = time.perf_counter()
    with launch.world(settings.device, threads=settings.threads, section="calibrate") as world:
        found = collect(state, facts["model"], batches, settings, world)
        seconds = time.perf_counter() - started
        if world.is_main:
            tensors.save(statistics, found.hessians(), facts | {"tokens": found.tokens})
            tensors.save(rows, found.rows(), facts | {"tokens": found.tokens})
            stage.write_json(metrics, {
                "source": settings.source, "tokens": found.tokens, "matrices": len(found.moments), "row_gradients": settings.row_gradients,
                "seconds": round(seconds, 2), "tokens_per_second": round(found.tokens / seconds),
                "seconds_per_million_tokens": round(1e6 * seconds / found.tokens, 2), "device": world.device.type,
                "processes": world.size, "text_sha256": facts["text_sha256"]})
            print(f"{len(found.moments)} matrices, {found.tokens:,} tokens ({settings.source}), {found.tokens / seconds:,.0f} a second")


def collect(state: dict, config: dict, batches: shuffled.Loader | None, settings: Settings, world: launch.World) -> Statistics:
    """Statistics over all sequences, the same on every process; `batches` of one sequence each, or None: the model writes them."""
    model = dequantize.build(state, config).to(world.device)
    found = Statistics(model, row_gradients=settings.row_gradients)
    bar = tqdm(total=settings.sequences, desc="calibrate", unit=" sequences", disable=not world.is_main, mininterval=1.0)
    for portion, first in enumerate(range(0, settings.sequences, TOGETHER)):
        sequences = range(first, min(first + TOGETHER, settings.sequences))
        if portion % world.size == world.rank:
            # seeded by the portion: what is drawn does not depend on which process draws it
            text_seed, label_seed = np.random.SeedSequence([settings.seed, portion]).generate_state(2).tolist()
            if batches is None:
                tokens_BT = own_text.write(model, rows=len(sequences), length=settings.sequence_length, temperature=settings.temperature,
                                           generator=torch.Generator().manual_seed(text_seed))
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
    stage.run(main)
