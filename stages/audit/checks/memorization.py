"""T13: the evaluator under audit predicts val no better than other text that it has not seen.

The claimed scores of all val documents are compared with those of holdout documents, scored with the same artifact, evaluator and options;
each relative to a trigram model R, which is built here from the train tokens alone and estimates how hard each document is
(stages/audit/reference_model.py). With a, r bits and b bytes of each document,

    D = [sum (a - r) / sum b over val] - [the same over holdout]          bits per byte, 0 if val and holdout are alike to both
    e = a - r - m b, m the ratio over holdout;   v = sum e² / sum b² over holdout;   s² = v [sum b² / (sum b)² over val + over holdout]

The spread is measured on holdout alone, so no artifact can hide a gain on val behind scores of val that jump. So that it cannot hide one
behind scores of holdout that jump, a fifteenth of `audit.replayed` targets are drawn evenly and replayed besides. An evaluator that
carries something learns along the way, so holdout is as long as val for it; for others as many documents are drawn as have
`audit.memorization_tokens`. The check fails if D < -max(0.005, q s), q the 99.9 % quantile of Student's t with n - 1 degrees of freedom, n
the holdout documents. Were e / b normal and documents independent, 0.1 % of honest artifacts would fail by chance. They are
not quite: a few documents are far nearer to train than all others, and where a draw of holdout misses these, D is low and s is small
as well. benchmarks/false_alarms.py measures what remains, and the default therefore takes all of its holdout (docs/certification.md).
A contamination of d bits per byte is found with probability T(d/s - q). Holdout is replayed with its targets withheld, as val is: an
artifact that reads the targets of both would cost both too little. So many positions are drawn that such a replay can miss a quarter
of what chance leaves open, if `audit.replayed` are that many; what it can miss is added to the contamination that is found.
The evidence states the contamination that is found with probability 99 %, and the power for smaller ones. Training on val before
quantization moved published scores by -0.03 to -0.06 bits per byte; the smallest change was 0.004. Whoever learned from val and holdout
alike passes all this, so a score is not ruled if holdout costs less than a quarter of R's bits.
"""

import math

import numpy as np

from stages.audit import bound, replay
from stages.audit.evidence import Evidence, Verdict, lacks
from stages.audit.reference_model import Trigram
from stages.lib.referee import artifact
from stages.lib.referee.significance import student_above, student_below
from stages.lib.tokens import splits
from stages.runtime.text.tokenizer import BOS

PROVES = (
    "Against anyone, within the error that is stated: relative to a model that never met either, the evaluator predicts val no better "
    "than holdout."
)
CANNOT_SEE = (
    "A contamination smaller than that error, one of val and holdout alike that leaves a quarter of the reference's bits or more, and a "
    "val split that is of another kind of text than holdout: then a pass or a fail says nothing."
)
PRECEDENT = "Pre-quantization TTT rejected (organizers, #1972, 2 May 2026), where the lineage does not show it"
EVENLY = 15  # a share of the positions, against claims that are too high for some documents of holdout
FLOOR, LEVEL, MISSED, IMPLAUSIBLE = 0.005, 0.001, 0.01, 0.25
UNSEEN = 0.25  # what the replay of holdout may miss, as a share of what chance leaves open
TRAIN_TOKENS = 20_000_000  # the trigram model reads at most this many
GAINS = (0.005, 0.01, 0.02, 0.05, 0.1)  # bits per byte of the power curve


def check(evidence: Evidence) -> Verdict:
    if lacking := lacks(evidence, "train", "holdout"):
        return lacking
    reference = Trigram(np.asarray(splits.read(evidence.train, "train").tokens[:TRAIN_TOKENS]), evidence.text.vocabulary_size)
    holdout = splits.read(evidence.holdout, "holdout", sidecar=True)
    if evidence.metrics["carries"]:
        stream, counts = beginning(holdout, len(evidence.tokens))
    else:
        stream, counts = sample(holdout, evidence.settings.memorization_tokens, evidence.generator(13))
    claim = artifact.claim(evidence.submission, stream, threads=1, **evidence.told)
    if claim.facts["carries"] != evidence.metrics["carries"]:
        raise artifact.Failed("the artifact says for val and for holdout something else of whether it carries what it learns")
    if not np.isfinite(nats := claim.nats).all():
        raise artifact.Failed(f"the artifact claimed no finite cost for {np.count_nonzero(~np.isfinite(nats))} targets of holdout")
    val = np.asarray(evidence.tokens), np.asarray(evidence.text.byte_counts), evidence.nats
    documents = {"holdout": per_document(stream, counts, nats, reference), "val": per_document(*val, reference)}
    size, count = documents["holdout"][2], len(documents["holdout"][2])
    if count < 2:
        return Verdict("not_applicable", {"reason": "one document of holdout has no spread; give more holdout tokens"}, positions=count)
    deviation, error = compared(documents["val"], documents["holdout"])
    threshold, sure = most_by_chance(error, count), student_above(count - 1, MISSED) * error
    may_miss = UNSEEN * (threshold + sure) * math.log(2) * float(size.sum())
    withheld = replay.run(
        evidence.submission,
        tokens=stream,
        claims=nats,
        count=bound.enough(nats, evidence.text.vocabulary_size, may_miss, most=evidence.settings.replayed),
        reach=None,
        generator=evidence.generator(14),
        evenly=math.ceil(evidence.settings.replayed / EVENLY),
        **evidence.told,
    )
    if withheld.off.any():
        reason = f"it claims {int(withheld.off.sum())} of {len(withheld.positions)} targets of holdout for other nats than it needs"
        return Verdict("fail", {"reason": reason}, positions=len(withheld.positions), largest_deviation=float(withheld.excess.max()))
    unseen = (withheld.most_nats(nats) - float(nats.sum())) / math.log(2) / float(size.sum())
    facts = {
        name: {
            "documents": len(sizes),
            "artifact_bits_per_byte": float(found.sum() / sizes.sum()),
            "reference_bits_per_byte": float(guesses.sum() / sizes.sum()),
        }
        for name, (found, guesses, sizes) in documents.items()
    } | {
        "deviation_bits_per_byte": deviation,
        "error_bits_per_byte": error,
        "threshold_bits_per_byte": -threshold,
        "false_alarms": LEVEL,
        "holdout_replayed": len(withheld.positions),
        "holdout_unseen_bits_per_byte": unseen,
        "found_with_99_percent_bits_per_byte": threshold + sure + unseen,
        "power": {str(gain): float(student_below((gain - threshold) / error, count - 1)) if error else 1.0 for gain in GAINS},
    }
    if not (passed := deviation >= -threshold):
        facts["reason"] = f"val costs {-deviation:.3f} bits per byte less than holdout, where at most {threshold:.3f} are left to chance"
    implausible = facts["holdout"]["artifact_bits_per_byte"] < IMPLAUSIBLE * facts["holdout"]["reference_bits_per_byte"]
    if passed and implausible:
        facts["reason"] = "holdout costs less than a quarter of what trigrams need, so it may have been learned from, and val with it"
    verdict = "fail" if not passed else "not_applicable" if implausible else "pass"
    return Verdict(verdict, facts, positions=count + len(documents["val"][2]), largest_deviation=-deviation)


def per_document(stream: np.ndarray, counts: np.ndarray, nats: np.ndarray, reference: Trigram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits of the artifact, bits of the reference and bytes of each document. The start of a document counts to the one before."""
    document = np.cumsum(stream == BOS)[:-1] - 1
    return tuple(np.bincount(document, values) for values in (nats / math.log(2), reference.nats(stream) / math.log(2), counts[1:]))


def compared(val: tuple[np.ndarray, ...], holdout: tuple[np.ndarray, ...]) -> tuple[float, float]:
    """D and s. Each split is (bits of the artifact, bits of the reference, bytes) by document; holdout has at least two."""
    gains, sizes = zip(*((bits - guessed, size) for bits, guessed, size in (val, holdout)), strict=True)
    ratio, count = float(gains[1].sum() / sizes[1].sum()), len(sizes[1])
    spread = float(((gains[1] - ratio * sizes[1]) ** 2).sum() / (sizes[1] ** 2).sum()) * count / (count - 1)
    error = math.sqrt(spread * sum(float((size**2).sum()) / float(size.sum()) ** 2 for size in sizes))
    return float(gains[0].sum() / sizes[0].sum()) - ratio, error


def most_by_chance(error: float, documents: int) -> float:
    """max(0.005, q s): a D below its negative is a fail."""
    return max(FLOOR, student_above(documents - 1, LEVEL) * error)


def sample(split: splits.Split, limit: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At least two whole documents, drawn at random up to `limit` tokens, in the order of the split; and the bytes per token."""
    stream = np.asarray(split.tokens[:], np.int64)
    edges = np.append(np.flatnonzero(stream == BOS), len(stream))
    drawn = generator.permutation(len(edges) - 1)
    reach = np.searchsorted(np.cumsum(np.diff(edges)[drawn]), limit)
    parts = [slice(edges[number], edges[number + 1]) for number in np.sort(drawn[: max(2, reach)])]
    return np.concatenate([stream[part] for part in parts]), np.concatenate([split.byte_counts[part] for part in parts])


def beginning(split: splits.Split, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The first whole documents, at least one, that have `limit` tokens together or are all there are; and the bytes per token."""
    stream = np.asarray(split.tokens[:], np.int64)
    edges = np.append(np.flatnonzero(stream == BOS), len(stream))
    end = int(edges[max(1, min(np.searchsorted(edges, limit, side="right"), len(edges)) - 1)])
    return stream[:end], split.byte_counts[:end]
