"""The formats of values: a column has a title and a kind, and each kind has a format. Tables for a page, and as Markdown."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

ABSENT = "-"
NUMBERS = ("score", "ratio", "signed", "count", "error", "seconds")


@dataclass(frozen=True)
class Column:
    """One column as a reader sees it: the key in the frame, its title, the format of its values, and whether a telephone leaves it out."""

    key: str
    title: str
    kind: str = "text"
    is_optional: bool = False

    @property
    def style(self) -> str:
        """The class of its cells in the style sheet."""
        kind = "number" if self.kind in NUMBERS else self.kind if self.kind in ("hash", "reads") else ""
        return f"{kind} optional".strip() if self.is_optional else kind


@dataclass(frozen=True)
class Row:
    """One row as text; `small` is shown under its name, `beneath` on a separate line, and `is_best` highlights the row."""

    cells: tuple[str, ...]
    small: str
    beneath: str
    is_best: bool


@dataclass(frozen=True)
class Shown:
    """A table as a page shows it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


STAGE_COLUMNS = (
    Column("name", "stage"),
    Column("bits_per_byte", "bits per byte", "score"),
    Column("change", "change", "signed"),
    Column("loss_nats", "nats per token", "score"),
    Column("seconds", "seconds", "seconds"),
)
EVALUATOR_COLUMNS = (
    Column("name", "evaluator"),
    Column("bits_per_byte", "claimed", "score"),
    Column("at_most", "at most", "score"),
    Column("gain", "gain over sliding", "signed"),
    Column("seconds", "seconds", "seconds"),
    Column("verdict", "verdict", "verdict"),
)
CODEC_COLUMNS = (
    Column("name", "codec run"),
    Column("blob_bytes", "bytes", "count"),
    Column("bits_per_weight", "bits per weight", "ratio"),
    Column("entropy_bits_per_weight", "entropy per weight", "ratio"),
    Column("encode_seconds", "encode s", "seconds"),
    Column("decode_seconds", "decode s", "seconds"),
)
QUANTIZED_COLUMNS = (
    Column("name", "group"),
    Column("method", "method"),
    Column("tensors", "tensors", "count"),
    Column("weights", "weights", "count"),
    Column("bits_per_weight", "bits per weight", "ratio"),
    Column("bytes", "bytes", "count"),
    Column("relative_error", "output error", "error"),
    Column("max_code", "max code", "count"),
)
GROUP_COLUMNS = (Column("group", "group"), Column("raw_bytes", "bytes before", "count"), Column("coded_bytes", "bytes", "count"))
COMPRESSOR_COLUMNS = (
    Column("name", "compressor"),
    Column("bytes", "bytes", "count", is_optional=True),
    Column("bits_per_byte", "bits per byte", "score"),
    Column("bytes_after_train", "bytes after", "count", is_optional=True),
    Column("bits_per_byte_after_train", "bits per byte after", "score"),
    Column("seconds", "seconds", "seconds"),
    Column("peak_bytes", "peak bytes", "count", is_optional=True),
)
AVERAGE_COLUMNS = (
    Column("name", "average"),
    Column("bits_per_byte", "holdout bits per byte", "score"),
    Column("profile_error", "profile error", "ratio"),
    Column("note", ""),
)
BUDGET_COLUMNS = (Column("name", "stage"), Column("seconds", "seconds here", "seconds"), Column("note", ""))
LINEAGE_COLUMNS = (Column("node", "node"), Column("val", "val split"), Column("reads", "reads", "reads"))
BYTE_COLUMNS = (Column("name", "name"), Column("part", "part"), Column("group", "group"), Column("bytes", "bytes", "count"))
TENSOR_COLUMNS = (
    Column("tensor", "tensor"),
    Column("method", "method"),
    Column("weights", "weights", "count"),
    Column("bits_per_weight", "bits per weight", "ratio"),
    Column("relative_error", "output error", "error"),
    Column("max_code", "max code", "count"),
)
ENVIRONMENT_COLUMNS = (Column("name", "what"), Column("value", ""), Column("stage", "said by"))
HASH_COLUMNS = (Column("name", "sha256 of"), Column("sha256", "", "hash"))
SPLIT_COLUMNS = (
    Column("name", "split"),
    Column("documents", "documents", "count"),
    Column("bytes", "bytes", "count"),
    Column("sha256", "sha256", "hash"),
)

FORMATS = {
    "text": str,
    "hash": str,
    "reads": str,
    "score": "{:.4f}".format,
    "ratio": "{:.3f}".format,
    "signed": lambda value: "0" if value == 0 else f"{value:+.4f}",
    "count": "{:,}".format,
    "error": "{:.2e}".format,
    "seconds": lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}",
    "verdict": str,
}


def cell(value, kind: str) -> str:
    """One value as text; an absent value is a dash."""
    return ABSENT if value is None else FORMATS[kind](value)


def shown(
    frame: pd.DataFrame,
    columns: tuple[Column, ...],
    *,
    title: str = "",
    small: Callable = lambda row: "",
    beneath: Callable = lambda row: "",
    is_best: Callable = lambda row: False,
) -> Shown:
    """`frame` as text; each of the three functions takes a row of it and returns that field of `Row`."""
    rows = [
        Row(tuple(cell(getattr(row, column.key), column.kind) for column in columns), small(row), beneath(row), bool(is_best(row)))
        for row in frame.itertuples()
    ]
    return Shown(title, columns, tuple(rows))


def phrase(value) -> str:
    """Any JSON value as one line of words: a dict becomes `key value; key value`, a list `item, item`."""
    if isinstance(value, dict):
        return "; ".join(f"{key.replace('_', ' ')} {phrase(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) if isinstance(item, int) else phrase(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def markdown(table: pd.DataFrame, columns: tuple[Column, ...]) -> str:
    """`table` as a Markdown table whose source is aligned too, numbers to the right."""
    texts = [[cell(value, column.kind).replace("|", "\\|") for value in table[column.key]] for column in columns]
    titles = [column.title for column in columns]
    widths = [max(map(len, [title, *column])) for title, column in zip(titles, texts, strict=True)]
    is_right = [column.kind in NUMBERS for column in columns]

    def line(cells) -> str:
        padded = [text.rjust(width) if right else text.ljust(width) for text, width, right in zip(cells, widths, is_right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, is_right, strict=True)]
    return "\n".join(line(cells) for cells in [titles, rule, *zip(*texts, strict=True)])
