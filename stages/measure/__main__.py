"""Bits per byte of the val split after one stage, with plain non-overlapping windows. Only a measurement: nothing reads it
but the report, so the artifact's lineage never touches val.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar

from stages.lib import launch, scoring, stage, tensors
from stages.lib.data import tokens
from stages.lib.params import AtLeastOne
from stages.lib.stage import Input, Metrics, Variant
from stages.runtime import dequantize


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "measure"
    window: AtLeastOne


def main(
    after: Variant,
    settings: Settings,
    *,
    model: Input = "artifacts/{variant}/model.safetensors",
    text: Input = "artifacts/tokenize/val",
    metrics: Metrics = "artifacts/measure/{variant}/metrics.json",
) -> None:
    stored, facts = tensors.load(model)
    split = tokens.read(text, "val", sidecar=True)
    with launch.world("cpu"):
        state = dequantize.weights({name: tensor.numpy() for name, tensor in stored.items()}, facts.get("quantization"))
        score = scoring.chunked(dequantize.build(state, facts["model"]), split, window=settings.window)
    stage.write_json(metrics, {"stage": after, **asdict(score), "text_sha256": split.text_sha256})
    print(f"after {after}: {score.bits_per_byte:.4f} bits per byte")


if __name__ == "__main__":
    stage.run(main)
