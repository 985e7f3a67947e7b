"""Collect the Hessian of every quantized matrix on training tokens: the slow half of GPTQ.

For a linear layer y = W x the layer error ‖(W - Ŵ) X‖² has the Hessian H = Σ x x' over calibration tokens, fp32 (K, K).
"""

import time
from dataclasses import dataclass
from typing import ClassVar

from stages.lib import launch, stage, tensors
from stages.lib.data import tokens
from stages.lib.data.loaders import shuffled
from stages.lib.quant import hessians
from stages.lib.stage import Input, Metrics, Output
from stages.runtime import dequantize


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "calibrate"
    sequences: int
    sequence_length: int
    seed: int


def main(
    settings: Settings,
    *,
    weights: Input = "artifacts/prequant_ttt/model.safetensors",
    text: Input = "artifacts/tokenize/train",
    statistics: Output = "artifacts/calibrate/hessians.safetensors",
    metrics: Metrics = "artifacts/calibrate/metrics.json",
) -> None:
    if settings.sequences < 1:
        raise ValueError(f"calibrate.sequences is {settings.sequences}; GPTQ needs at least 1 calibration sequence")
    state, facts = tensors.load(weights)
    batches = shuffled.Loader(tokens.read(text, "train").tokens, sequence_length=settings.sequence_length,
                              batch_tokens=settings.sequence_length, seed=settings.seed, section="calibrate")
    started = time.perf_counter()
    with launch.world("cpu"):
        model = dequantize.build(state, facts["model"])
        collected = hessians.collect(model, (batches.batch(step).inputs for step in range(settings.sequences)), total=settings.sequences)
    tensors.save(statistics, collected, facts)
    stage.write_json(metrics, {"tokens": settings.sequences * settings.sequence_length, "matrices": len(collected),
                               "seconds": round(time.perf_counter() - started, 2),
                               "text_sha256": facts["text_sha256"]})


if __name__ == "__main__":
    stage.run(main)
