"""The section `prepare` of params.yaml, and the checks that need no corpus."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from stages.lib.node.params import AtLeastOne, require
from stages.lib.text import accounting
from stages.prepare import fineweb

OpenShare = Annotated[float, Interval(gt=0, lt=1)]


@dataclass(frozen=True)
class PrepareSettings:
    """Which documents to use, how many of them at most, and how to split them."""

    SECTION: ClassVar[str] = "prepare"
    source: Literal["builtin", "local", "fineweb"]
    path: str
    max_bytes: AtLeastOne | None
    fraction: Annotated[float, Interval(gt=0, le=1)]
    split: Literal["hash", "first"]
    split_seed: int
    val_fraction: OpenShare
    holdout_fraction: OpenShare
    val_documents: AtLeastOne
    holdout_documents: AtLeastOne
    fineweb: fineweb.Source


def check(settings: PrepareSettings) -> None:
    """ValueError for parameters that do not fit together."""
    require(bool(settings.path), "prepare.path is empty; set it to a file or folder, or leave it at data")
    total = settings.val_fraction + settings.holdout_fraction
    require(
        total < 1, f"prepare.val_fraction and prepare.holdout_fraction sum to {total}, which leaves nothing to train on; lower one of them"
    )
    require(
        settings.fraction == 1 or (settings.source != "builtin" and settings.split == "hash"),
        f"prepare.fraction is {settings.fraction}, and only documents that are split by their own hashes can be drawn; set it to 1.0",
    )
    if settings.source == "fineweb" and settings.fineweb.contents == "documents":
        require(
            settings.split == "first" and settings.val_documents == accounting.VAL_DOCUMENTS,
            f"prepare.source fineweb with the field's document list needs prepare.split first and prepare.val_documents "
            f"{accounting.VAL_DOCUMENTS:,}, the field's own split: fewer would put val documents into train (#2127)",
        )
    require(
        settings.source != "builtin" or settings.split == "hash",
        "prepare.split first needs documents in a given order, and the built-in ones have none; set prepare.split to hash",
    )
