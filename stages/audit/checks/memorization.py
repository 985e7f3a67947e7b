"""T13: the artifact predicts val no better than other text that it has not seen.

Val and holdout documents are scored in plain windows by the artifact A, and by a trigram model R. R is built here from the train tokens
alone and estimates how hard each document is (stages/audit/reference_model.py). With a, r bits and b bytes of each document,

    D = [sum (a - r) / sum b over val] - [the same over holdout]          bits per byte, 0 if val and holdout are alike to both

The error of each term is that of a ratio over documents, s² = n/(n-1) sum (a - r - m b)² / (sum b)²; f are Welch's degrees of freedom. The
check fails if D < -max(0.005, q s), where q is the 99 % quantile of Student's t with f degrees of freedom: if documents are independent,
1 % of honest artifacts fail by chance. A contamination of d bits per byte is found with probability T(d/s - q). The evidence states the
contamination that is found with probability 99 %. Training on val before quantization moved published scores by -0.03 to -0.06 bits per
byte; the smallest change was 0.004.
"""

import math

import numpy as np

from stages.audit.evidence import Evidence, Verdict
from stages.audit.reference_model import Trigram
from stages.lib.referee import artifact
from stages.lib.referee.significance import student_below
from stages.lib.tokens import splits
from stages.runtime.text.tokenizer import BOS

PROVES = "Against a model that never met either, the artifact predicts val no better than holdout, within the error that is stated."
CANNOT_SEE = (
    "A contamination smaller than that error, one of val and holdout alike, and a val split that is of another kind of text than "
    "holdout: then a pass or a fail says nothing."
)
PRECEDENT = "Pre-quantization TTT rejected (organizers, #1972, 2 May 2026), where the lineage does not show it"
FLOOR, LEVEL = 0.005, 0.01
TRAIN_TOKENS = 20_000_000  # the trigram model reads at most this many
WINDOW = 128


def check(evidence: Evidence) -> Verdict:
    options = _plain(evidence)
    if options is None:
        return Verdict("not_applicable", {"reason": "the artifact packs no sliding evaluator; add it to package.evaluators"})
    train = splits.read(evidence.train, "train").tokens
    reference = Trigram(np.asarray(train[: min(len(train), TRAIN_TOKENS)]), evidence.text.vocabulary_size)
    drawn = {
        name: sample(split, evidence.settings.memorization_tokens, evidence.settings.seed)
        for name, split in (("val", evidence.text), ("holdout", splits.read(evidence.holdout, "holdout", sidecar=True)))
    }
    scored = artifact.score(
        evidence.submission, [stream for stream, _ in drawn.values()], evaluator="sliding", options=options, shares=True
    )
    gaps, facts = {}, {}
    for (name, (stream, counts)), result in zip(drawn.items(), scored, strict=True):
        document = np.cumsum(stream == BOS)[1:] - 1
        bits, guessed, size = (
            np.bincount(document, values) for values in (result.nats / math.log(2), reference.nats(stream) / math.log(2), counts[1:])
        )
        gaps[name] = ratio(bits - guessed, size)
        facts[name] = {
            "documents": len(size),
            "tokens": len(stream) - 1,
            "artifact_bits_per_byte": float(bits.sum() / size.sum()),
            "reference_bits_per_byte": float(guessed.sum() / size.sum()),
        }
    deviation = gaps["val"][0] - gaps["holdout"][0]
    error = math.hypot(gaps["val"][1], gaps["holdout"][1])
    spread = sum(gaps[name][1] ** 4 / (facts[name]["documents"] - 1) for name in gaps)
    reach = quantile(error**4 / spread if spread else math.inf) * error
    threshold = max(FLOOR, reach)
    facts |= {
        "deviation_bits_per_byte": deviation,
        "error_bits_per_byte": error,
        "threshold_bits_per_byte": -threshold,
        "false_alarms": LEVEL,
        "found_with_99_percent_bits_per_byte": threshold + reach,
    }
    return Verdict(
        "pass" if deviation >= -threshold else "fail",
        facts,
        positions=sum(facts[name]["documents"] for name in gaps),
        largest_deviation=-deviation,
    )


def quantile(degrees: float) -> float:
    """The t that Student's t with this many degrees of freedom exceeds with probability LEVEL, by bisection."""
    low, high = 0.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if student_below(-middle, min(degrees, 1e9)) > LEVEL else (low, middle)
    return high


def _plain(evidence: Evidence) -> dict | None:
    """Windows that do not overlap, with the packed sliding evaluator: each token is computed once."""
    try:
        artifact.packed(evidence.submission, "sliding")
    except ValueError:
        return None
    window = evidence.options.get("window", WINDOW)
    return {"window": window, "stride": window, "batch": 32}


def sample(split: splits.Split, limit: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At least two whole documents, drawn at random up to `limit` tokens, in the order of the split; and the bytes per token."""
    stream = np.asarray(split.tokens[:], np.int64)
    edges = np.append(np.flatnonzero(stream == BOS), len(stream))
    drawn = np.random.default_rng([seed, 13]).permutation(len(edges) - 1)
    reach = np.searchsorted(np.cumsum(np.diff(edges)[drawn]), limit)
    parts = [slice(edges[number], edges[number + 1]) for number in np.sort(drawn[: max(2, reach)])]
    return np.concatenate([stream[part] for part in parts]), np.concatenate([split.byte_counts[part] for part in parts])


def ratio(values: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """sum(values) / sum(sizes), and the standard error of this ratio over documents."""
    mean, count = values.sum() / sizes.sum(), len(values)
    return float(mean), math.sqrt(count / (count - 1) * float(((values - mean * sizes) ** 2).sum())) / float(sizes.sum())
