"""Adapt the weights to a split once more before they are quantized: AdamW, whole epochs, cosine decay. Identity when off.

`prequant_ttt.split: holdout` is text of the same kind that nothing is scored on. `val` reproduces what #1399, #1306 and
#1958 did; the audit's lineage check then refuses every score of the artifact.
"""

import math
import sys
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from stages.lib import launch, stage, tensors
from stages.lib.data import tokens
from stages.lib.data.loaders import shuffled
from stages.lib.params import require
from stages.lib.stage import Input, Metrics, Output
from stages.runtime import dequantize


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "prequant_ttt"
    enabled: bool
    split: Literal["holdout", "val"]
    epochs: int
    learning_rate: float
    learning_rate_floor: float
    gradient_clip: float
    sequence_length: int
    batch_tokens: int
    seed: int


def main(
    settings: Settings,
    *,
    before: Input = "artifacts/ema/model.safetensors",
    text: Input = "artifacts/tokenize/${prequant_ttt.split}",
    weights: Output = "artifacts/prequant_ttt/model.safetensors",
    metrics: Metrics = "artifacts/prequant_ttt/metrics.json",
) -> None:
    require(settings.epochs >= 1 and settings.gradient_clip >= 0,
            "prequant_ttt takes epochs of 1 or more and gradient_clip of 0 (off) or more")
    state, facts = tensors.load(before)
    losses, started = [], time.perf_counter()
    if settings.enabled:
        if settings.split == "val":
            print("PREQUANT_TTT ADAPTS TO THE VALIDATION SPLIT: NO SCORE OF THIS ARTIFACT WILL BE CERTIFIED AS LEGAL", file=sys.stderr)
        with launch.world("cpu"):
            state, losses = adapt(state, facts["model"], tokens.read(text, settings.split), settings)
    tensors.save(weights, state, facts)
    stage.write_json(metrics, {"enabled": settings.enabled, "split": settings.split if settings.enabled else None,
                               "steps": len(losses), "seconds": round(time.perf_counter() - started, 2),
                               "first_loss_nats": losses[0] if losses else None,
                               "last_loss_nats": losses[-1] if losses else None, "text_sha256": facts["text_sha256"]})
    print(f"{len(losses)} steps on {settings.split}" if settings.enabled else "off: the same weights go on")


def adapt(state: dict, config: dict, split: tokens.Split, settings: Settings) -> tuple[dict, list[float]]:
    """Adapted copies of the weights, and the loss of each step (nats). Learning rate: cosine per epoch down to its floor."""
    model = dequantize.build({name: weight.clone() for name, weight in state.items()}, config).requires_grad_(True)
    batches = shuffled.Loader(split.tokens, sequence_length=settings.sequence_length, batch_tokens=settings.batch_tokens,
                              seed=settings.seed, section="prequant_ttt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    steps_per_epoch = max(1, batches.windows_per_epoch // batches.num_rows)
    losses = []
    for step in tqdm(range(settings.epochs * steps_per_epoch), desc="prequant_ttt", unit=" steps", mininterval=1.0):
        progress = (step // steps_per_epoch) / max(settings.epochs - 1, 1)
        low, high = settings.learning_rate_floor * settings.learning_rate, settings.learning_rate
        optimizer.param_groups[0]["lr"] = low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))
        batch = batches.batch(step)
        loss = F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.gradient_clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
        require(math.isfinite(losses[-1]), f"the loss is {losses[-1]} at step {step + 1}; lower prequant_ttt.learning_rate")
    return {name: weight.detach() for name, weight in model.named_parameters()}, losses


if __name__ == "__main__":
    stage.run(main)
