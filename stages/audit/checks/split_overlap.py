"""T12: the train text does not contain the val documents.

Every val document is cut into runs of 64 tokens, which are looked up at every position of the train tokens (stages/audit/shingles.py). A
document counts as contained if at least half of its runs are found. Every collection contains a few such documents. The holdout split,
which was split off in the same way, shows how many are normal:

    fails if    share(val) > q + 0.01 + 3 sqrt(p (1 - p) / n)      q: share(holdout), at most 0.1; p: q, at least 1/documents;
                                                                   n: val documents

Where more than a tenth of the holdout documents are contained, they do not say what is normal: the same documents were read twice, or all
splits have copies of the same text, and val is no text that the model has not seen.
"""

import math

import numpy as np

from stages.audit import shingles
from stages.audit.evidence import Evidence, Verdict, lacks
from stages.lib.tokens import splits
from stages.runtime.text.tokenizer import BOS

PROVES = (
    "Against honest mistakes: no more val documents stand in the train tokens, by half or more of their runs of 64 tokens, than of the "
    "holdout documents."
)
CANNOT_SEE = (
    "Val text that is paraphrased, cut finer than 64 tokens or tokenized differently in train, and train tokens beyond "
    "audit.overlap_tokens; text that reached the weights without being in the train split."
)
PRECEDENT = "Issue #2127 (local preparation put val documents 10,000 to 49,999 into training); #2018 and #2130 excluded, 2 May 2026"
MARGIN, DEVIATIONS, MOST_NATURAL = 0.01, 3.0, 0.1


def check(evidence: Evidence) -> Verdict:
    if lacking := lacks(evidence, "train", "holdout"):
        return lacking
    searched = _searched(evidence)
    val, holdout = (_contained(split.tokens[:], searched) for split in (evidence.text, splits.read(evidence.holdout, "holdout")))
    if not val["documents"]:
        return Verdict("not_applicable", {"reason": f"no val document has {shingles.LENGTH} tokens, so none can be looked for"})
    share = min(holdout["share"], MOST_NATURAL)
    natural = max(share, 1 / max(1, holdout["documents"]))
    allowed = share + MARGIN + DEVIATIONS * math.sqrt(natural * (1 - natural) / val["documents"])
    facts = {
        "val": val,
        "holdout": holdout,
        "largest_share_allowed": allowed,
        "run_tokens": shingles.LENGTH,
        "train_tokens_searched": sum(map(len, searched)),
        "train_tokens": len(splits.read(evidence.train, "train").tokens),
    }
    return Verdict(
        "pass" if val["share"] <= allowed else "fail", facts, positions=val["runs"], largest_deviation=val["share"] - holdout["share"]
    )


def _searched(evidence: Evidence) -> list[np.ndarray]:
    """The train shards, each as far as its part of `audit.overlap_tokens` reaches."""
    stream = splits.read(evidence.train, "train").tokens
    reach = evidence.settings.overlap_tokens / max(1, len(stream))
    return [shard[: math.ceil(min(1.0, reach) * len(shard))] for shard in stream.shards]


def _contained(stream: np.ndarray, searched: list[np.ndarray]) -> dict:
    stream = np.asarray(stream)
    starts = np.flatnonzero(stream == BOS)
    runs, documents = shingles.of_documents(stream, starts)
    present = shingles.present(runs, searched)
    total = np.bincount(documents, minlength=len(starts))
    whole = np.bincount(documents, present, len(starts))
    counted = total > 0
    contained = counted & (whole >= total / 2)
    return {
        "documents": int(counted.sum()),
        "contained": int(contained.sum()),
        "share": float(contained.sum() / max(1, counted.sum())),
        "runs": len(runs),
        "runs_present": int(present.sum()),
        "first_contained": int(np.argmax(contained)) if contained.any() else None,
    }
