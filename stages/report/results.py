"""Read the files of the other stages and check that they have every value that the report shows. Nothing is computed here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.lib.node import files
from stages.report import lineage

STAGES = ("train", "ema", "prequant_ttt", "quantize")
CERTIFIED = ("bits_per_byte", "artifact_sha256")  # values that must agree between a certificate and its score
CERTIFICATE = ("evaluator", "verdict", "legal", "at_most_bits_per_byte", "checks", "claims", "significance", *CERTIFIED)
CHECKED = ("verdict", "evidence", "positions", "largest_deviation", "proves", "cannot_see", "precedent")
CLAIMS = ("causal", "score_first", "single_pass")

MEASURED = ("bits_per_byte", "loss_nats", "bytes", "seconds", "text_sha256")
SCORED = (*MEASURED, "raw_bytes", "bytes_counted_on", "ledger_sha256")
CODED = ("blob_bytes", "bits_per_weight", "entropy_bytes", "entropy_bits_per_weight", "encode_seconds", "decode_seconds")
COMPRESSED = ("bytes", "bits_per_byte", "bytes_after_train", "bits_per_byte_after_train", "seconds", "peak_bytes")
TRAINED = ("steps", "train_seconds", "tokens_per_second", "loss_nats", "holdout_bits_per_byte", "parameters", "seed", "processes", "device")
ENVIRONMENT = ("torch", "precision", "attention_backend")
BYTES = ("part", "group", "name", "bytes")
QUANTIZED = ("tensor", "group", "method", "weights", "bits_per_weight", "relative_error", "max_code")
PACKED = ("artifact_bytes", "cap_bytes", "code_bytes", "model_bytes", "over_cap_bytes", "pyz_bytes", "compress_run", "sha256")


@dataclass(frozen=True)
class Results:
    """The parsed files of the other stages; runs are in the order of params.yaml."""

    prepare: dict
    text_compressors: dict
    train: dict
    loss: pd.DataFrame
    averages: pd.DataFrame
    spent: dict[str, dict]
    plain_score: dict[str, dict]
    compress: dict[str, dict]
    package: dict
    evaluate: dict[str, dict]
    certificates: dict[str, dict]
    tensors: pd.DataFrame
    byte_table: pd.DataFrame
    graph: lineage.Graph
    machine: dict[str, str]


def load(
    *,
    prepare: Path,
    text_compressors: Path,
    train_metrics: Path,
    loss_curve: Path,
    ema_metrics: Path,
    averages: Path,
    prequant_ttt: Path,
    calibrate: Path,
    quantize: Path,
    plain_score: Path,
    compress: Path,
    package: Path,
    evaluate: Path,
    audit: Path,
    quantized_tensors: Path,
    bytes_table: Path,
    lock: Path,
    machine: dict[str, str],
    scored_after: Iterable[str],
    compress_runs: Iterable[str],
    evaluate_runs: Iterable[str],
) -> Results:
    """Read the files of the named runs and of no others: a folder may still hold a run that params.yaml dropped.

    Raises ValueError naming the stage to run if a file is absent or lacks a value that the report shows.
    """
    results = Results(
        prepare=_read(prepare, "prepare", ("source", "documents", "bytes", "sha256")),
        text_compressors=_read(text_compressors, "text_compressors", ("val_bytes", "train_bytes", "text_sha256", "compressors", "absent")),
        train=_read(train_metrics, "train", (*TRAINED, *ENVIRONMENT, "text_sha256")),
        loss=_table(loss_curve, "train", ("step", "train_loss", "learning_rate_scale", "holdout_bits_per_byte")),
        averages=_table(averages, "ema", ("average", "holdout_bits_per_byte", "profile_error")),
        spent={
            "train": _read(train_metrics, "train", ("train_seconds", "budget", "spent", "budget_unit")),
            "ema": _read(ema_metrics, "ema", ("average",)),
            "prequant_ttt": _read(prequant_ttt, "prequant_ttt", ("seconds", "enabled")),
            "calibrate": _read(calibrate, "calibrate", ("seconds", "tokens")),
            "quantize": _read(quantize, "quantize", ("tuning",)),
        },
        plain_score={name: _read(plain_score / name / "metrics.json", f"plain_score@{name}", MEASURED) for name in scored_after},
        compress={
            run: _read(
                compress / run / "metrics.json",
                f"compress@{run}",
                (
                    "codec",
                    "filters",
                    "available",
                    "reason",
                    "left_out_bytes",
                    "quantized_weights",
                    "header_bytes",
                    "groups",
                    "blob_sha256",
                    "model_sha256",
                    *CODED,
                ),
            )
            for run in compress_runs
        },
        package=_read(package, "package", (*PACKED, "text_sha256")),
        evaluate={
            run: _read(evaluate / run / "metrics.json", f"evaluate@{run}", ("evaluator", "artifact_sha256", *SCORED))
            for run in evaluate_runs
        },
        certificates={run: _read(audit / run / "certificate.json", f"audit@{run}", CERTIFICATE) for run in evaluate_runs},
        tensors=_table(quantized_tensors, "quantize", QUANTIZED),
        byte_table=_table(bytes_table, "package", BYTES),
        graph=lineage.load(lock, scored_after=scored_after, compress_runs=compress_runs, evaluate_runs=evaluate_runs),
        machine=machine,
    )
    for run, certificate in results.certificates.items():
        if any(certificate[key] != results.evaluate[run].get(key) for key in CERTIFIED):
            raise ValueError(
                f"{audit / run / 'certificate.json'} certifies another score than evaluate@{run} has now; run: dvc repro audit@{run}"
            )
    for name, entry in results.text_compressors["compressors"].items():
        _require(entry, COMPRESSED, f"{text_compressors}: compressors.{name}", "text_compressors")
    for run, certificate in results.certificates.items():
        where = audit / run / "certificate.json"
        for name, check in certificate["checks"].items():
            _require(check, CHECKED, f"{where}: checks.{name}", f"audit@{run}")
    for run in results.evaluate:
        if run in STAGES:
            raise ValueError(
                f"evaluate.runs.{run} has the name of a stage, their bits per byte would be mixed up; "
                f"rename the run in params.yaml, e.g. {run}_run"
            )
    return results


def _table(path: Path, maker: str, required: tuple[str, ...]) -> pd.DataFrame:
    if not path.exists():
        raise ValueError(f"{path} is missing; run the stage that makes it: dvc repro {maker}")
    table = pd.read_csv(path)
    if not set(required) <= set(table.columns):
        raise ValueError(
            f"{path} needs the columns {', '.join(required)}; it has {', '.join(map(str, table.columns))}; make it again: "
            f"dvc repro --force {maker}"
        )
    return table


def _read(path: Path, maker: str, required: tuple[str, ...]) -> dict:
    if not path.exists():
        raise ValueError(f"{path} is missing; run the stage that makes it: dvc repro {maker}")
    content = files.read_json(path)
    return _require(content, required, str(path), maker)


def _require(content: dict, required: tuple[str, ...], where: str, maker: str) -> dict:
    if absent := [key for key in required if key not in content]:
        raise ValueError(f"{where} has no {', '.join(absent)}; it was written by other code, make it again: dvc repro --force {maker}")
    return content
