"""Where every byte of the artifact goes: a table whose rows add up to the size of script and blob.

    part        group                                         name
    model       header | a role of matrices | scales |        a tensor; the header has one row
                side information | control tensors
    code        network | features | codecs | train | ...     a module of the one script

A section of the blob is compressed as a whole, so the cost of one tensor in it cannot be measured. The section's bytes are divided among
its tensors by the order-0 entropy of their values (for floats: of each of their bytes). The sum is exact for the section and approximate
for a tensor. The largest remainder method makes the bytes whole numbers without changing their sum.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.lib.blob import entropy, quantized_model
from stages.runtime.blob import header, matrix_context
from stages.runtime.blob.container import Model

COLUMNS = ("part", "group", "name", "bytes")
Row = tuple[str, str, str, int]


def of_blob(blob: bytes, model: Model) -> list[Row]:
    """The rows of a blob that holds `model`, possibly with its tensors in another order: its header, and every tensor of every section."""
    read = header.read(blob)
    found: list[Row] = [("model", "header", "header", read.end)]
    for section in read.sections:
        names = [entry.name for entry in section.tensors]
        shares = share(
            section.size,
            [
                _weight(model.tensors[name]) if name in model.tensors else entry.num_bytes
                for name, entry in zip(names, section.tensors, strict=True)
            ],
        )
        found += [("model", group(name, model), name, size) for name, size in zip(names, shares, strict=True)]
    return found


def group(name: str, model: Model) -> str:
    """The kind of a tensor, as one word for the table."""
    if quantized_model.is_codes(name):
        return matrix_context.role(name.removesuffix(matrix_context.CODES))[0]
    if name not in model.tensors:  # the permutations of sort_rows
        return "side information"
    if quantized_model.is_side(name, model.tensors):
        return "scales" if name.endswith(".scales") else "side information"
    return "control tensors"


def share(total: int, weights: Sequence[float]) -> list[int]:
    """Divide `total` into whole numbers in proportion to `weights`; they add up to `total`. If all weights are 0, the parts are equal."""
    parts = np.asarray(weights, np.float64) if any(weights) else np.ones(len(weights))
    exact = total * parts / parts.sum()
    whole = np.floor(exact).astype(np.int64)
    for place in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[place] += 1
    return whole.tolist()


def read(path: Path) -> list[Row]:
    """The rows of a table that `write` has written."""
    with open(path, newline="", encoding="utf-8") as handle:
        return [(row["part"], row["group"], row["name"], int(row["bytes"])) for row in csv.DictReader(handle)]


def write(path: Path, table: list[Row]) -> None:
    """Write the table as CSV, in its order."""
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(table)


def _weight(array: np.ndarray) -> float:
    if array.dtype.kind in "iu":
        return entropy.bits(array)
    planes = np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.dtype.itemsize)
    return sum(entropy.bits(plane) for plane in planes.T)
