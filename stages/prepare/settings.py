"""The section `prepare` of params.yaml, and what no corpus can meet."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.lib.node import params
from stages.lib.node.params import require
from stages.lib.text import accounting
from stages.prepare import fineweb


@dataclass(frozen=True)
class PrepareSettings:
    """Which documents, at most how many bytes of them, and how they are split."""

    SECTION: ClassVar[str] = "prepare"
    source: Literal["builtin", "local", "fineweb"]
    path: str
    max_bytes: int | None
    split: Literal["hash", "first"]
    split_seed: int
    val_fraction: float
    holdout_fraction: float
    val_documents: int
    holdout_documents: int
    fineweb: dict


def check(settings: PrepareSettings) -> fineweb.Source:
    """ValueError for settings that no corpus can meet; the validated `prepare.fineweb`."""
    source = params.build(fineweb.Source, settings.fineweb, "prepare.fineweb")
    require(bool(settings.path), "prepare.path is empty; set it to a file or folder, or leave it at data")
    require(settings.max_bytes is None or settings.max_bytes > 0,
            f"prepare.max_bytes is {settings.max_bytes}; it must be positive, or null")
    for name in ("val_fraction", "holdout_fraction"):
        value = getattr(settings, name)
        require(0 < value < 1, f"prepare.{name} is {value}; it must lie between 0 and 1, both excluded")
    total = settings.val_fraction + settings.holdout_fraction
    require(total < 1, f"prepare.val_fraction and prepare.holdout_fraction sum to {total}, which leaves nothing to "
                       "train on; lower one of them")
    for name in ("val_documents", "holdout_documents"):
        require(getattr(settings, name) > 0, f"prepare.{name} is {getattr(settings, name)}; it takes a positive number")
    if settings.source == "fineweb" and source.contents == "documents":
        require(settings.split == "first" and settings.val_documents == accounting.VAL_DOCUMENTS,
                f"prepare.source fineweb with the field's document list needs prepare.split first and prepare.val_documents "
                f"{accounting.VAL_DOCUMENTS:,}, the field's own split: fewer would put val documents into train (#2127)")
    require(settings.source != "builtin" or settings.split == "hash", "prepare.split first needs documents in a given order, and the "
            "built-in ones have none; set prepare.split to hash")
    return source
