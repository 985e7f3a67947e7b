"""What every check may look at: the artifact, its ledger and metrics, the raw documents, dvc.lock, and runs of the artifact.

The contract of a check, one file under checks/:

    PROVES: str        one sentence: what a pass shows
    CANNOT_SEE: str    one sentence: what may be wrong and still pass
    PRECEDENT: str     the ruling that it follows, with its date; or "none"
    check(evidence: Evidence) -> Verdict

The probes score short streams with the artifact itself: the first tokens of val, and copies of them in which the tokens from
one position on were changed. Shapes are equal, so an honest evaluator gives bit-equal results before that position.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.lib import artifact
from stages.lib.data import tokens

NORMALIZATION_ROWS = 64


@dataclass(frozen=True)
class Verdict:
    """pass | fail | not_applicable (there was nothing to look at, so nothing is certified), with the numbers it rests on.

    `positions`: how many targets, rows or documents were looked at; `largest_deviation`: from what was demanded, in the unit that the
    evidence names. None where a check counts nothing, or measures nothing.
    """

    verdict: str
    evidence: dict
    positions: int | None = None
    largest_deviation: float | None = None


@dataclass(frozen=True)
class Flip:
    """A probe: stream with token `position` changed (`whole_future`: and all later ones). Position 1 is the first target."""

    position: int
    whole_future: bool
    stream: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Evidence:
    """Inputs of the checks. `probe_tokens` and `num_flips` set the size of the probe runs, `seed` their positions."""

    submission: Path
    documents: Path
    text: tokens.Split
    nats: np.ndarray
    metrics: dict
    evaluator: str
    options: dict
    lock: Path
    probe_tokens: int
    num_flips: int
    seed: int

    @functools.cached_property
    def flips(self) -> list[Flip]:
        """Flips in the interior of batches, and at the edges of windows and batches, in random order of the changed ids."""
        generator = np.random.default_rng(self.seed)
        base = np.asarray(self.text.tokens[: self.probe_tokens + 1], np.int64)
        vocabulary = self.text.vocabulary_size
        flips = []
        for i, position in enumerate(positions(len(base) - 1, self.options, self.num_flips, generator)):
            stream = base.copy()
            whole_future = i % 2 == 1
            stop = len(base) if whole_future else position + 1
            # adding 1..V-1 modulo V changes every id
            stream[position:stop] = (stream[position:stop] + generator.integers(1, vocabulary, stop - position)) % vocabulary
            flips.append(Flip(position, whole_future, stream))
        return flips

    @functools.cached_property
    def probes(self) -> list[artifact.Result]:
        """The unchanged stream first, then one result per flip; every probe keeps the rows of all flipped positions."""
        base = np.asarray(self.text.tokens[: self.probe_tokens + 1], np.int64)
        generator = np.random.default_rng([self.seed, 1])
        sample = generator.choice(len(base) - 1, min(NORMALIZATION_ROWS, len(base) - 1), replace=False) + 1
        rows = sorted({flip.position for flip in self.flips} | {int(row) for row in sample})
        streams = [base, *(flip.stream for flip in self.flips)]
        return artifact.score(self.submission, streams, evaluator=self.evaluator, options=self.options, rows=rows)


def positions(num_targets: int, options: dict, count: int, generator: np.random.Generator) -> list[int]:
    """Targets to flip: structural edges first (just after a batch and after a window), then the interior at random."""
    window, stride, batch = (options.get(name, 1) for name in ("window", "stride", "batch"))
    edges = [window + (batch - 1) * stride + 1, window + stride * (batch // 2) + 1, window + stride * (batch // 2) + stride // 2]
    chosen = [edge for edge in edges if 2 <= edge <= num_targets - 1][:max(count - 1, 0)]
    free = np.setdiff1d(np.arange(2, max(num_targets, 3)), chosen)
    return chosen + [int(p) for p in generator.choice(free, min(count - len(chosen), len(free)), replace=False)]
