"""Choose the weights that the next stages use: the final ones, an average kept in training, or an average computed now from its snapshots.

| ema.average              | weights                                                                                      |
|--------------------------|----------------------------------------------------------------------------------------------|
| final                    | after the last step                                                                          |
| ema_0.98, swa, power_... | as train.averages kept them                                                                  |
| posthoc_ema_<decay>      | any decay, from the snapshots of the power averages: nothing is trained again                 |
| posthoc_power_<exponent> | the same for a power average                                                                 |
| best                     | that of ema.candidates with the fewest bits per byte on the holdout split                    |
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from stages.ema import posthoc_averages
from stages.lib.node import files, launch, tensors
from stages.lib.node.params import AtLeastOne, Device
from stages.lib.node.stage import Input, Metrics, Output, Plot
from stages.lib.tokens import splits, window_score
from stages.runtime.network import features
from stages.runtime.weights import dequantize


@dataclass(frozen=True)
class EmaSettings:
    SECTION: ClassVar[str] = "ema"
    average: str
    candidates: tuple[str, ...]
    tokens: AtLeastOne | None
    window: AtLeastOne
    device: Device


def main(
    settings: EmaSettings,
    *,
    final: Input = "artifacts/train/model.safetensors",
    averages: Input = "artifacts/train/averages",
    snapshots: Input = "artifacts/train/snapshots",
    holdout: Input = "artifacts/tokenize/holdout",
    weights: Output = "artifacts/ema/model.safetensors",
    curve: Plot = "artifacts/ema/candidates.csv",
    metrics: Metrics = "artifacts/ema/metrics.json",
) -> None:
    if settings.average == "best" and not settings.candidates:
        raise ValueError("ema.average is best, but ema.candidates is empty; name some")
    choice = Choice(final, averages, snapshots)
    rows, split = [], splits.read(holdout, "holdout", sidecar=True)
    with launch.world(settings.device, section="ema") as world:
        for name in settings.candidates:
            state, error = choice.weights(name)
            score = window_score.chunked(
                dequantize.build(state, choice.facts["model"]).to(world.device), split, window=settings.window, max_targets=settings.tokens
            )
            rows.append({"average": name, "holdout_bits_per_byte": score.bits_per_byte, "profile_error": error})
    name = settings.average
    if name == "best":
        name = min(rows, key=lambda row: row["holdout_bits_per_byte"])["average"]
    chosen, error = choice.weights(name)
    reference, _ = choice.weights("final")
    distance = sum((chosen[key] - reference[key]).square().sum().item() for key in reference) ** 0.5
    norm = sum(weight.square().sum().item() for weight in reference.values()) ** 0.5
    chosen, model = features.exported(chosen, choice.facts["model"])
    tensors.save(weights, chosen, choice.facts | {"model": model})
    _write(curve, rows)
    files.write_json(
        metrics,
        {
            "average": name,
            "relative_distance_to_final": distance / norm,
            "profile_error": error,
            "text_sha256": choice.facts["text_sha256"],
        },
    )
    print(f"{name}: {distance / norm:.4f} of the norm away from the final weights" + (f", profile error {error:.4f}" if error else ""))


class Choice:
    """The weights of one training, by the name of their average."""

    def __init__(self, final: Path, averages: Path, snapshots: Path):
        self.tracked = {"final": final} | {path.stem: path for path in sorted(averages.glob("*.safetensors"))}
        self.snapshots = sorted(snapshots.glob("step_*.safetensors"))
        self.facts = tensors.load(final)[1]

    def weights(self, name: str) -> tuple[dict[str, Tensor], float]:
        """The weights, and the profile error if they were computed from snapshots (else 0). ValueError for an unknown name."""
        if name in self.tracked:
            return tensors.load(self.tracked[name])[0], 0.0
        kind, _, number = name.removeprefix("posthoc_").partition("_")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not name.startswith("posthoc_") or not (0 <= value < 1 if kind == "ema" else kind == "power" and 0 < value < 1000):
            raise ValueError(
                f"ema has the average {name!r}; the training has {', '.join(self.tracked)} (train.averages sets which), and "
                "posthoc_ema_<decay below 1> or posthoc_power_<exponent> can be put together from its snapshots"
            )
        return self._synthesise(kind, value)

    def _synthesise(self, kind: str, value: float) -> tuple[dict[str, Tensor], float]:
        loaded = [tensors.load(path) for path in self.snapshots]
        total = max((facts["step"] for _, facts in loaded), default=0)
        profiles, states, half = [], [], frozenset().union(*(facts["half"] for _, facts in loaded))
        for stored, facts in loaded:
            by_average: dict[str, dict[str, Tensor]] = {}
            for key, tensor in stored.items():
                average, parameter = key.split("/", 1)
                by_average.setdefault(average, {})[parameter] = tensor
            for average, state in by_average.items():
                profiles.append(posthoc_averages.power_profile(float(average.removeprefix("power_")), facts["step"], total=total))
                states.append(state)
        wanted = (
            posthoc_averages.ema_profile(value, total=total) if kind == "ema" else posthoc_averages.power_profile(value, total, total=total)
        )
        synthesis = posthoc_averages.synthesise(wanted, profiles)
        return posthoc_averages.combine(synthesis, states, half=half), synthesis.profile_error


def _write(path: Path, rows: list[dict]) -> None:
    with files.atomic(path) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["average", "holdout_bits_per_byte", "profile_error"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    from stages.lib.node import command

    command.run(main)
