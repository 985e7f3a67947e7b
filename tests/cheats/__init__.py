"""Evaluators and harnesses that must not be certified, one per file, and what runs an audit on them without packing them.

A file has CAUGHT_BY, the check that has to fail (others may too), and one or both of

    Evaluator                       as under stages/runtime/scoring/evaluators; the options are OPTIONS, if there are any
    score(evaluator, tokens, **more) -> Ledger      in place of the harness, which an artifact brings along itself

`audit` does what stages.audit does, on a tiny network and in this process: its streams, sizes and checks are those of the real one.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.audit import __main__ as stage_audit
from stages.audit.evidence import AuditSettings, Evidence, Verdict
from stages.lib.referee import artifact
from stages.runtime.scoring import harness
from stages.runtime.scoring.streaming import Stream

VOCABULARY = 50
GEOMETRY = {"window": 24, "stride": 8, "batch": 4}
MEMORY = {"order": 3, "document": 2, "reset_at": 1, "discount": 0.8, "strength": -0.5, "rate": 0.1, "every": 16}
SETTINGS = {"replayed": 110, "replay_reach": None, "round_trip": 40, "overlap_tokens": 1, "memorization_tokens": 1}
BEHAVIOUR = ("claim", "documents_apart", "replay", "round_trip", "withheld")


def names() -> list[str]:
    return sorted(entry.name for entry in pkgutil.iter_modules([str(Path(__file__).parent)]))


def load(name: str):
    return importlib.import_module(f"tests.cheats.{name}")


def stream(length: int = 420, seed: int = 4) -> np.ndarray:
    """A val split with structure: documents of 5 to 80 tokens, in which tokens follow each other with some regularity."""
    generator = np.random.default_rng([seed, 9])
    follows = generator.integers(2, VOCABULARY, (VOCABULARY, 3))
    tokens = [1]
    while len(tokens) < length:
        fresh = generator.random() < 0.3
        ends = generator.random() < 1 / 40
        tokens.append(1 if ends else int(generator.integers(2, VOCABULARY)) if fresh else int(generator.choice(follows[tokens[-1]])))
    return np.array(tokens)


@dataclass(frozen=True)
class Text:
    """What checks read of a split."""

    tokens: np.ndarray
    vocabulary_size: int = VOCABULARY


class Session:
    """Stands in for artifact.Session: the same answers, in this process, from a fresh evaluator."""

    make, score = None, harness.score  # set by `audit`

    def __init__(
        self,
        pyz,
        *,
        evaluator,
        options,
        num_targets,
        first,
        documents=1,
        stream=False,
        whole=False,
        part=(0, 1),
        vocabulary=None,
        threads=1,
        gpu=None,
    ):
        self.evaluator, self.first, self.part, self.whole = type(self).make(streaming=stream), first, part, whole
        self.num_targets, self.stream, self.vocabulary = num_targets, None, VOCABULARY
        self.carries = bool(getattr(self.evaluator, "carries", True))
        self.facts, self.documents, self.order = (
            {"claims": [], "carries": self.carries},
            documents,
            getattr(self.evaluator, "coding_order", None),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def _stream(self) -> Stream:
        self.stream = self.stream or self.honestly(
            Stream, self.evaluator, self.num_targets, self.first, documents=self.documents, whole=self.whole
        )
        return self.stream

    targets = artifact.Session.targets

    def know(self, ids) -> None:
        self.honestly(self._stream().push, [int(token) for token in ids])

    def row(self) -> np.ndarray:
        row = self.honestly(self._stream().dist)
        if np.isnan(row).any():
            raise artifact.Failed("a row that is no distribution")
        return row - (row.max() + np.log(np.exp(row - row.max()).sum()))

    def claims(self, ids):
        ledger = self.honestly(type(self).score, self.evaluator, np.concatenate(([self.first], np.asarray(ids))))
        yield 1, ledger.nats

    @staticmethod
    def honestly(call, *given, **named):
        """What an artifact that breaks down is for the referee."""
        try:
            return call(*given, **named)
        except (ValueError, AssertionError, IndexError, RuntimeError) as error:
            raise artifact.Failed(str(error)) from None


def audit(
    monkeypatch, evaluator, *, claims=("causal", "score_first", "single_pass"), score=harness.score, seed=11, text=None, **settings
) -> dict[str, Verdict]:
    """Evaluate and audit: `evaluator(streaming=False)` makes a fresh one. The verdicts of all checks of behaviour."""
    tokens = stream() if text is None else text
    monkeypatch.setattr(artifact, "Session", type("Here", (Session,), {"make": staticmethod(evaluator), "score": staticmethod(score)}))
    try:
        claimed = artifact.claim(Path("none"), tokens, evaluator="one", options={})
    except artifact.Failed as error:  # the referee refuses the claim, so `evaluate` ends without a score to audit
        return {"claim": Verdict("fail", {"reason": str(error)})}
    nats = claimed.nats
    evidence = Evidence(
        submission=Path("none"),
        documents=Path("none"),
        text=Text(tokens),
        nats=nats,
        evaluator="one",
        options={},
        lock=Path("none"),
        train=Path("none"),
        holdout=Path("none"),
        making={},
        drawn=(seed,),
        script=Path("none"),
        package=None,
        metrics={
            "claims": list(claims),
            "carries": claimed.facts["carries"],
            "bytes": 3 * len(tokens),
            "bits_per_byte": float(nats.sum()) / np.log(2) / 3 / len(tokens),
        },
        settings=AuditSettings(**(SETTINGS | settings)),
    )
    return {name: stage_audit.judged(importlib.import_module(f"stages.audit.checks.{name}"), evidence) for name in BEHAVIOUR}


def failed(verdicts: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.verdict not in ("pass", "reported")}
