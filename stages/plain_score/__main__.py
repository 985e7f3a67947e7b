"""Bits per byte of the val split after one stage, with plain non-overlapping windows. Only the report reads this measurement, so the
artifact's lineage never depends on val.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from stages.lib.node import files, launch, tensors
from stages.lib.node.params import AtLeastOne, Device
from stages.lib.node.stage import Input, Metrics, Variant
from stages.lib.tokens import splits, window_score
from stages.runtime.weights import dequantize


@dataclass(frozen=True)
class PlainScoreSettings:
    SECTION: ClassVar[str] = "plain_score"
    after: tuple[Literal["train", "ema", "prequant_ttt", "quantize"], ...]
    window: AtLeastOne
    device: Device


def main(
    after: Variant,
    settings: PlainScoreSettings,
    *,
    model: Input = "artifacts/{variant}/model.safetensors",
    text: Input = "artifacts/tokenize/val",
    metrics: Metrics = "artifacts/plain_score/{variant}/metrics.json",
) -> None:
    stored, facts = tensors.load(model)
    split = splits.read(text, "val", sidecar=True)
    with launch.world(settings.device, section="plain_score") as world:
        state = dequantize.weights({name: tensor.numpy() for name, tensor in stored.items()}, facts.get("quantization"))
        network = dequantize.build(state, facts["model"]).to(world.device)
        score = window_score.chunked(network, split, window=settings.window)
    files.write_json(metrics, {"stage": after, **asdict(score), "text_sha256": split.text_sha256})
    print(f"after {after}: {score.bits_per_byte:.4f} bits per byte")


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
