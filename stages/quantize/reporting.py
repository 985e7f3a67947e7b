"""Report what quantizing did to each tensor, in numbers: bits, error, codes. Not part of the one script."""

import csv as writer
import io
from pathlib import Path

import torch
from torch import Tensor

from stages.lib.blob import entropy
from stages.lib.node import files
from stages.lib.quant.network import Result, as_matrix
from stages.lib.quant.quantized import Quantized, layer_error

COLUMNS = ("tensor", "group", "method", "weights", "bits_per_weight", "relative_error", "max_code")
REST = "everything else"


def write(
    metrics: Path, table: Path, result: Result, state: dict[str, Tensor], hessians: dict[str, Tensor], *, device: str, text_sha256: str
) -> None:
    """Write the table of tensors as CSV, the metrics, and a line for people."""
    found = rows(result, state, hessians)
    with files.atomic(table) as partial:
        partial.write_text(csv(found), encoding="utf-8")
    figures = summary(found)
    files.write_json(
        metrics,
        figures
        | {
            "damping_raised": result.damping,
            "device": device,
            "entropy": result.budget and result.budget.summary(),
            "tuning": result.tuning,
            "text_sha256": text_sha256,
        },
    )
    print(
        f"{figures['matrices']} matrices, {figures['bits_per_weight']:.3f} bits per weight, mean relative layer error "
        f"{figures['layer_error_mean']:.2e}"
    )


def rows(result: Result, state: dict[str, Tensor], hessians: dict[str, Tensor]) -> list[dict]:
    """One row for each quantized matrix, and one row for everything that is float16.

    `bits_per_weight`: order-0 entropy of the codes and of other integers, side information included. `relative_error`: tr(E H E') / tr(W H
    W'), with H = I for a tensor without a Hessian.
    """
    found = []
    for name, quantized in result.matrices.items():
        weight_MK = as_matrix(state[name])
        hessian_KK = hessians.get(name.removesuffix(".weight"), torch.eye(weight_MK.size(1)))
        group, settings = result.groups[name]
        found.append(
            {
                "tensor": name,
                "group": group,
                "method": settings.method,
                "weights": weight_MK.numel(),
                "bits_per_weight": stored_bits(quantized) / weight_MK.numel(),
                "relative_error": layer_error(weight_MK, quantized, hessian_KK),
                "max_code": int(quantized.arrays["codes"].abs().max()),
            }
        )
    rest = sum(weight.numel() for weight in result.float16.values())
    return [
        *found,
        {
            "tensor": REST,
            "group": "other",
            "method": "none",
            "weights": rest,
            "bits_per_weight": 16.0,
            "relative_error": 0.0,
            "max_code": 0,
        },
    ]


def csv(found: list[dict]) -> str:
    """The rows as CSV, numbers with six digits."""
    buffer = io.StringIO()
    out = writer.DictWriter(buffer, COLUMNS, lineterminator="\n")
    out.writeheader()
    for row in found:
        out.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return buffer.getvalue()


def summary(found: list[dict]) -> dict:
    """The numbers for metrics.json."""
    matrices = [row for row in found if row["tensor"] != REST]
    weights, quantized = (sum(row["weights"] for row in part) for part in (found, matrices))
    coded = sum(row["weights"] * row["bits_per_weight"] for row in matrices)
    errors = [row["relative_error"] for row in matrices] or [0.0]
    return {
        "weights": weights,
        "quantized_weights": quantized,
        "matrices": len(matrices),
        "coded_bits_per_weight": coded / max(quantized, 1),
        "bits_per_weight": sum(row["weights"] * row["bits_per_weight"] for row in found) / weights,
        "layer_error_mean": sum(errors) / len(errors),
        "layer_error_max": max(errors),
    }


def stored_bits(quantized: Quantized) -> float:
    """Bits of all arrays of a matrix: integers at their own order-0 entropy, floats as they are stored."""

    def bits(suffix: str, array: Tensor) -> float:
        is_float = array.is_floating_point() or suffix == "scales"  # float8 is stored as uint8
        return 8.0 * array.element_size() * array.numel() if is_float else entropy.bits(array.numpy())

    return sum(bits(suffix, array) for suffix, array in quantized.arrays.items())
