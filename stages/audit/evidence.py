"""The inputs of every check: the artifact, its ledger and metrics, the raw documents, dvc.lock, and runs of the artifact.

The contract of a check, one file under checks/:

    PROVES: str        one sentence: what a pass shows
    CANNOT_SEE: str    one sentence: what may be wrong and still pass
    PRECEDENT: str     the ruling that it follows, with its date; or "none"
    check(evidence: Evidence) -> Verdict

`replay` replays drawn positions with the target withheld (replay.py) and codes the first targets; `coded` decodes these (coding.py).
Each session with the artifact is a process in a jail of its own. If the artifact breaks down in a run, the checks that use the run fail.
The checks run at the same time, but only one session at a time is told val (`alone`): of two, the one that is told more could signal the
other, by locks on files that both can read or by the load of the machine.
"""

import contextlib
import functools
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.audit import coding
from stages.audit.replay import Replay, Whole
from stages.audit.replay import run as replayed
from stages.audit.replay import whole as withheld_in_whole_chunks
from stages.lib.blob.counted import PackageSettings
from stages.lib.node.params import AtLeastOne
from stages.lib.referee import artifact, programs
from stages.lib.tokens import splits


@dataclass(frozen=True)
class AuditSettings:
    """The sizes of the audit's runs."""

    SECTION: ClassVar[str] = "audit"
    replayed: AtLeastOne
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


def once(run):
    """A property that runs once and alone, for the first thread that asks, and keeps the result. If the artifact failed, every access
    raises that failure."""

    @functools.wraps(run)
    def look(self):
        with self.locks[run.__name__]:
            if run.__name__ not in self.kept:
                try:
                    with self.locks["alone"] if run.__name__ == "replay" else self.alone():
                        self.kept[run.__name__] = run(self)
                except artifact.Failed as error:
                    self.kept[run.__name__] = error
        if isinstance(self.kept[run.__name__], artifact.Failed):
            raise self.kept[run.__name__]
        return self.kept[run.__name__]

    return property(look)


@dataclass(frozen=True)
class Coded:
    """The code of the first `count` tokens, and what was decoded from it; `reason` says why they could not be coded. `wrong`: the places
    of other tokens. `claimed`: nats of the claim."""

    code: bytes
    count: int
    decoded: np.ndarray | None
    reason: str
    largest: float
    wrong: np.ndarray | None = None
    claimed: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """Inputs of the checks. `train`, `holdout`: tokenized splits; `making`: metrics of the stages that take the training budget;
    `script`: the file whose bytes count as code; `drawn`: the audit's fresh random numbers, which the certificate records.

    A `submission` that was built elsewhere is a Program (outside/). It has no lock, script or making; the tokenizer comes with the text,
    and train and holdout may be missing."""

    submission: Path | programs.Program
    documents: Path
    text: splits.Split
    nats: np.ndarray
    metrics: dict
    evaluator: str
    options: dict
    lock: Path
    settings: AuditSettings
    train: Path | None
    holdout: Path | None
    making: dict[str, dict]
    drawn: tuple[int, ...]
    script: Path
    package: PackageSettings
    given_tokenizer: bytes | None = None
    kept: dict = field(default_factory=dict, repr=False)  # results of the runs
    locks: dict = field(default_factory=lambda: defaultdict(threading.Lock), repr=False)

    @property
    def tokens(self) -> np.ndarray:
        return self.text.tokens

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Held while a session is told val. The replay comes first, so that nothing in this process knew val before it."""
        with contextlib.suppress(artifact.Failed):
            _ = self.replay
        with self.locks["alone"]:
            yield

    @property
    def told(self) -> dict:
        """What a session is started with."""
        return {"evaluator": self.evaluator, "options": self.options, "vocabulary": self.text.vocabulary_size}

    def generator(self, *purpose: int) -> np.random.Generator:
        """Random numbers from the audit's own draw, which nobody knew when the claim was made."""
        return np.random.default_rng([*self.drawn, *purpose])

    @once
    def replay(self) -> Replay:
        return replayed(
            self.submission,
            tokens=self.tokens,
            claims=self.nats,
            count=self.settings.replayed,
            reach=self.settings.replay_reach,
            generator=self.generator(1),
            coded=self._coded_targets,
            **self.told,
        )

    @once
    def whole(self) -> Whole:
        return withheld_in_whole_chunks(
            self.submission, tokens=self.tokens, claims=self.nats, threads=artifact.THREADS, generator=self.generator(3), **self.told
        )

    @once
    def coded(self) -> Coded:
        replay, count = self.replay, self._coded_targets
        refused = replay.refused
        if replay.coded.order and replay.coded.order.longest_first:
            refused = "documents in the order of their lengths are no code: a decoder does not know the lengths"
        if refused:
            return Coded(b"", count, None, refused, np.inf)
        code = replay.coded.encoder.finish()
        decoded = coding.decode(self.submission, code, count, stream=False, **artifact.about(self.tokens), **self.told)
        claimed = float(self.nats[replay.targets[:count] - 1].sum())
        return Coded(code, count, decoded, "", replay.coded.largest, coding.wrong(decoded, self.tokens, replay.coded.order), claimed)

    @property
    def _coded_targets(self) -> int:
        return min(self.settings.round_trip, len(self.tokens) - 1)


def is_built_elsewhere(evidence: Evidence) -> bool:
    """Whether the artifact is any program, and not one that `package` packed."""
    return isinstance(evidence.submission, programs.Program)


def lacks(evidence: Evidence, *names: str) -> Verdict | None:
    """The verdict of a check that needs splits of which one was not given; None if all are there."""
    missing = [name for name in names if is_built_elsewhere(evidence) and getattr(evidence, name) is None]
    return Verdict("not_applicable", {"reason": f"no {' and no '.join(missing)} tokens were given"}) if missing else None
