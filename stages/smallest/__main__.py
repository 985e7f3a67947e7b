"""The smallest of the blobs that compress made: what `package.blob: smallest` ships. Of equals the first name wins."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stages.lib import stage
from stages.lib.stage import Input, Metrics, Output

KEPT = ("run", "codec", "filters", "blob_bytes", "blob_sha256", "model_sha256", "reason", "text_sha256")


@dataclass(frozen=True)
class Compress:
    SECTION: ClassVar[str] = "compress"
    runs: dict


def main(
    settings: Compress,
    *,
    blobs: Input = "artifacts/compress",
    blob: Output = "artifacts/smallest/model.blob",
    metrics: Metrics = "artifacts/smallest/metrics.json",
) -> None:
    made = [_read(blobs / run / "metrics.json", run) for run in settings.runs]  # not the folder: it may hold runs of the past
    if len({metrics["model_sha256"] for metrics in made}) > 1:
        raise ValueError("the blobs under artifacts/compress are of different models; run: dvc repro compress")
    available = [metrics for metrics in made if metrics["blob_bytes"]]
    if not available:
        reasons = "; ".join(f"{metrics['run']}: {metrics['reason']}" for metrics in made)
        raise ValueError(f"no run of compress.runs is available here ({reasons or 'there is none'})")
    best = min(available, key=lambda metrics: (metrics["blob_bytes"], metrics["run"]))
    with stage.atomic(blob) as partial:
        shutil.copyfile(blobs / best["run"] / "model.blob", partial)
    stage.write_json(metrics, {key: best[key] for key in KEPT})
    print(f"{best['run']} is the smallest of {len(available)}: {best['blob_bytes']} bytes")


def _read(path: Path, run: str) -> dict:
    if not path.is_file():
        raise ValueError(f"{path} is missing; run: dvc repro compress@{run}")
    return stage.read_json(path, required=KEPT)


if __name__ == "__main__":
    stage.run(main)
