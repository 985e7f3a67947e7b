"""The contest's time limits: 600 s to make the artifact and 600 s to score it, measured on eight H100 GPUs.

Seconds on any other machine say nothing about these limits. Source: the challenge's README; calibration counts as training (#677, 27 Mar
2026).
"""

SECONDS = 600


def making(*, train: dict, prequant_ttt: dict, calibrate: dict) -> dict[str, float]:
    """Seconds of the stages that count as training, from their metrics."""
    return {
        "train": float(train["train_seconds"]),
        "prequant_ttt": float(prequant_ttt["seconds"]),
        "calibrate": float(calibrate["seconds"]),
    }


def is_the_fields(*, train: dict, evaluate: dict) -> bool:
    """Whether the artifact was trained and scored on eight H100, from the metrics of both stages."""
    return "H100" in str(train.get("gpu")) and train.get("processes") == evaluate.get("processes") == 8
