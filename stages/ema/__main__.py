"""Choose the weights that go on: the final ones, or one of the running averages of the training.

`ema.average` is `final` or the name of an average (`ema_0.98` for train.averages 0.98).
"""

from dataclasses import dataclass
from typing import ClassVar

from stages.lib import stage, tensors
from stages.lib.stage import Input, Metrics, Output


@dataclass(frozen=True)
class Settings:
    SECTION: ClassVar[str] = "ema"
    average: str


def main(
    settings: Settings,
    *,
    final: Input = "artifacts/train/model.safetensors",
    averages: Input = "artifacts/train/averages",
    weights: Output = "artifacts/ema/model.safetensors",
    metrics: Metrics = "artifacts/ema/metrics.json",
) -> None:
    known = {"final": final} | {path.stem: path for path in sorted(averages.glob("*.safetensors"))}
    if settings.average not in known:
        raise ValueError(f"ema.average is {settings.average!r}; the training has {', '.join(known)} (train.averages sets the decays)")
    chosen, facts = tensors.load(known[settings.average])
    reference, _ = tensors.load(final)
    distance = sum((chosen[name] - reference[name]).square().sum().item() for name in reference) ** 0.5
    norm = sum(weight.square().sum().item() for weight in reference.values()) ** 0.5
    tensors.save(weights, chosen, facts)
    stage.write_json(metrics, {"average": settings.average, "relative_distance_to_final": distance / norm,
                               "text_sha256": facts["text_sha256"]})
    print(f"{settings.average}: {distance / norm:.4f} of the norm away from the final weights")


if __name__ == "__main__":
    stage.run(main)
