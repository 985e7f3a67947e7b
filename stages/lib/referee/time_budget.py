"""The contest's time limits: 600 s to make the artifact and 600 s to score it, measured on eight H100 GPUs.

Seconds on any other machine say nothing about these limits. Source: the challenge's README; calibration counts as training (#677, 27 Mar
2026).
"""

SECONDS = 600


def making(*, train: dict, prequant_ttt: dict, calibrate: dict, quantize: dict) -> dict[str, float]:
    """Seconds of what counts as training, from the metrics of the stages. Of `quantize` only the tuning counts, which reads train text."""
    seconds = {
        "train": float(train["train_seconds"]),
        "prequant_ttt": float(prequant_ttt["seconds"]),
        "calibrate": float(calibrate["seconds"]),
    }
    return seconds | ({"tuning": float(quantize["tuning"]["seconds"])} if quantize.get("tuning") else {})


def is_the_fields(*, train: dict, evaluate: dict) -> bool:
    """Whether the artifact was trained and scored on eight H100, from the metrics of both stages."""
    return "H100" in str(train.get("gpu")) and train.get("processes") == evaluate.get("processes") == 8
