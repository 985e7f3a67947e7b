"""Documents -> train, holdout and val, a JSON line per document, and the number of bytes that scores are divided by.

Source `builtin` is the documentation of the installed packages, split by package; `local` is a file or folder of JSON
lines or plain text, split by document. What is written depends on the settings and the documents alone.

The seed of the built-in split is the first of 0, 1, 2, ... that meets a rule about sizes alone, fixed before anything
was trained: val and holdout have 350 to 600 kB and at least 5 packages each, none of them more than a third of its
side, and torch is in train.
"""

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tqdm import tqdm

from stages.lib import stage
from stages.lib.data import builtin, local, split
from stages.lib.params import require
from stages.lib.stage import Input, Metrics, Output

MAX_WORKERS = 8  # 20 seconds of parsing on one core; more processes would spend their time starting


@dataclass(frozen=True)
class Settings:
    """Which documents, at most how many bytes of them, and how they are split."""

    SECTION: ClassVar[str] = "prepare"
    source: Literal["builtin", "local"]
    path: str
    max_bytes: int
    split_seed: int
    val_fraction: float
    holdout_fraction: float


def main(
    settings: Settings,
    *,
    documents: Input = "${prepare.path}",
    train: Output = "artifacts/prepare/train.jsonl",
    holdout: Output = "artifacts/prepare/holdout.jsonl",
    val: Output = "artifacts/prepare/val.jsonl",
    metrics: Metrics = "artifacts/prepare/metrics.json",
) -> None:
    check(settings)
    packages = {}
    if settings.source == "builtin":
        found, packages = read_builtin()
    else:
        found = tqdm(local.documents(documents), "reading", unit=" documents", disable=None)
    written = split.write(
        found,
        {"train": train, "holdout": holdout, "val": val},
        seed=settings.split_seed,
        val_fraction=settings.val_fraction,
        holdout_fraction=settings.holdout_fraction,
        max_bytes=settings.max_bytes,
    )
    if written.empty_documents:
        print(f"skipped {written.empty_documents:,} empty documents")
    if written.is_cut:
        print(f"stopped at prepare.max_bytes = {settings.max_bytes:,}: the documents that follow are not used")
    for name in split.SPLITS:
        print(f"{name:8}{written.documents[name]:>12,} documents {written.bytes[name]:>16,} bytes")
    stage.write_json(metrics, {
        "source": settings.source,
        "documents": written.documents,
        "bytes": written.bytes,
        "sha256": written.sha256,
        **({"packages": packages} if packages else {}),
    })


def check(settings: Settings) -> None:
    """ValueError for settings that no corpus can meet."""
    require(settings.max_bytes > 0, f"prepare.max_bytes is {settings.max_bytes}; it must be positive")
    for name in ("val_fraction", "holdout_fraction"):
        value = getattr(settings, name)
        require(0 < value < 1, f"prepare.{name} is {value}; it must lie between 0 and 1, both excluded")
    total = settings.val_fraction + settings.holdout_fraction
    require(total < 1, f"prepare.val_fraction and prepare.holdout_fraction sum to {total}, which leaves nothing to "
                       "train on; lower one of them")


def read_builtin() -> tuple[list[split.Document], dict[str, str]]:
    """The built-in documents of this Python, shuffled, and the versions that decide them."""
    installed, versions, absent = builtin.sources_of_distributions()
    if absent:
        print(f"required by the packages but not installed, so not part of the corpus: {', '.join(absent)}")
    sources = builtin.in_order(builtin.sources_of_folder(Path(sysconfig.get_path("stdlib"))) + installed)
    paragraphs = builtin.extract(sources, workers=min(os.cpu_count() or 1, MAX_WORKERS))
    paragraphs = tqdm(paragraphs, "reading", total=len(sources), unit=" files", disable=None)
    return builtin.documents(sources, paragraphs), builtin.versions_of_all(versions)


if __name__ == "__main__":
    stage.run(main)
