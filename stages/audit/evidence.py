"""The inputs of every check: the artifact, its ledger and metrics, the raw documents, dvc.lock, and runs of the artifact.

The contract of a check, one file under checks/:

    PROVES: str        one sentence: what a pass shows
    CANNOT_SEE: str    one sentence: what may be wrong and still pass
    PRECEDENT: str     the ruling that it follows, with its date; or "none"
    check(evidence: Evidence) -> Verdict

There are three runs, each in a process of its own. `first` scores the unchanged probe, which is the beginning of val. `probes` scores the
probe again, and changed copies of it (probes.py). `replay` scores val token by token, codes it, and has the code decoded (replay.py).
Probes are declared as long as val, and only results from equal shapes are compared, so an honest evaluator gives equal bits. If the
artifact breaks down in a run, the checks that use the run fail. The checks run at the same time, so independent runs overlap.
"""

import functools
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from stages.audit import decoder, probes, replay
from stages.lib.blob.counted import PackageSettings
from stages.lib.node.params import AtLeastOne, AtLeastZero, Seed
from stages.lib.referee import artifact
from stages.lib.tokens import splits


@dataclass(frozen=True)
class AuditSettings:
    """The sizes of the audit's runs."""

    SECTION: ClassVar[str] = "audit"
    seed: Seed
    probe_tokens: Annotated[int, Interval(ge=2)]
    flips: AtLeastOne
    truncations: AtLeastOne
    tried_tokens: AtLeastOne
    replayed: AtLeastZero
    replay_reach: AtLeastOne | None
    round_trip: AtLeastOne
    overlap_tokens: AtLeastOne
    memorization_tokens: AtLeastOne


@dataclass(frozen=True)
class Verdict:
    """The result of one check, with the numbers that support it: pass | fail | not_applicable (there was nothing to look at, so nothing is
    certified) | reported (facts that are neither for nor against the score).

    `positions`: how many targets, rows or documents were looked at. `largest_deviation`: the largest deviation from the required value, in
    the unit that the evidence names. Each is None where the check has no such number.
    """

    verdict: str
    evidence: dict
    positions: int | None = None
    largest_deviation: float | None = None


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|one - other| by element; 0 where both are the same infinity, infinite where one is NaN."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    return np.where(one == other, 0.0, np.where(np.isnan(apart), np.inf, apart))


def once(run):
    """A property that runs once, for the first thread that asks, and keeps the result. If the artifact failed, every access raises
    that failure."""

    @functools.wraps(run)
    def look(self):
        with self.locks[run.__name__]:
            if run.__name__ not in self.kept:
                try:
                    self.kept[run.__name__] = run(self)
                except artifact.Failed as error:
                    self.kept[run.__name__] = error
        if isinstance(self.kept[run.__name__], artifact.Failed):
            raise self.kept[run.__name__]
        return self.kept[run.__name__]

    return property(look)


@dataclass(frozen=True)
class Evidence:
    """Inputs of the checks. `train`, `holdout`: tokenized splits; `making`: metrics of the stages that take the training budget;
    `script`: the file whose bytes count as code."""

    submission: Path
    documents: Path
    text: splits.Split
    nats: np.ndarray
    metrics: dict
    evaluator: str
    options: dict
    lock: Path
    settings: AuditSettings
    train: Path
    holdout: Path
    making: dict[str, dict]
    script: Path
    package: PackageSettings
    kept: dict = field(default_factory=dict, repr=False)  # results of the runs
    locks: dict = field(default_factory=lambda: defaultdict(threading.Lock), repr=False)

    @property
    def tokens(self) -> np.ndarray:
        return self.text.tokens

    @property
    def probe_length(self) -> int:
        """The number of targets of the probes."""
        return min(self.settings.probe_tokens, len(self.tokens) - 1)

    @once
    def first(self) -> artifact.Result:
        """The unchanged probe, in a separate process; its `line` says whether the evaluator carries anything from chunk to chunk."""
        request = probes.base(self.probe_length, len(self.tokens) - 1, ())
        (result,) = artifact.probe(self.submission, self.tokens, [request], evaluator=self.evaluator, options=self.options)
        return result

    @once
    def probe_set(self) -> probes.ProbeSet:
        settings = self.settings
        return probes.probe_set(
            self.tokens,
            self.first,
            length=self.probe_length,
            vocabulary=self.text.vocabulary_size,
            flips=settings.flips,
            truncations=settings.truncations,
            sample=settings.tried_tokens,
            generator=np.random.default_rng(settings.seed),
        )

    @once
    def probes(self) -> list[artifact.Result]:
        """The results of the requests of `probe_set`; the first is the unchanged probe."""
        return artifact.probe(self.submission, self.tokens, self.probe_set.requests, evaluator=self.evaluator, options=self.options)

    @once
    def replay(self) -> replay.Replay:
        settings = self.settings
        return replay.run(
            self.submission,
            evaluator=self.evaluator,
            options=self.options,
            tokens=self.tokens,
            ledger=self.nats,
            vocabulary=self.text.vocabulary_size,
            sampled=settings.replayed,
            coded=settings.round_trip,
            walk=settings.replay_reach,
            generator=np.random.default_rng([settings.seed, 1]),
            decode=self._decode,
        )

    def _decode(self, code: bytes, count: int) -> np.ndarray | str:
        """The tokens that another process decodes from the replay's code, or its last line if it fails."""
        return decoder.run(
            self.submission,
            code,
            evaluator=self.evaluator,
            options=self.options,
            num_targets=len(self.tokens) - 1,
            first=int(self.tokens[0]),
            count=count,
        )

    @property
    def refused(self) -> list[str]:
        """Accesses to files, programs and sockets that the guard refused, in these runs and in the run that made the score."""
        runs = [*self.first.refused, *self.probes[0].refused, *self.replay.refused, *self.metrics["refused"]]
        return list(dict.fromkeys(runs))
