"""Evaluators and harnesses that must not be certified, one per file, and what runs an audit on them without packing them.

A file has CAUGHT_BY, the check that has to fail (others may too), and one or both of

    Evaluator                       as under stages/runtime/scoring/evaluators; the options are OPTIONS, if there are any
    score(evaluator, tokens, **more) -> Ledger      in place of the harness, which an artifact brings along itself

`audit` does what stages.audit does, on a tiny network and in this process: its streams, sizes and checks are those of the real one.
"""

import contextlib
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.audit import __main__ as stage_audit
from stages.audit import decoder
from stages.audit.evidence import AuditSettings, Evidence, Verdict
from stages.lib.referee import artifact
from stages.runtime.scoring import harness
from stages.runtime.scoring.streaming import Stream
from stages.runtime.text import arithmetic

VOCABULARY = 50
GEOMETRY = {"window": 24, "stride": 8, "batch": 4}
MEMORY = {"order": 3, "document": 2, "reset_at": 1, "discount": 0.8, "strength": -0.5, "rate": 0.1, "every": 16}
SETTINGS = {
    "probe_tokens": 120,
    "flips": 7,
    "truncations": 2,
    "tried_tokens": 5,
    "replayed": 110,
    "replay_reach": None,
    "round_trip": 40,
    "overlap_tokens": 1,
    "memorization_tokens": 1,
}
BEHAVIOUR = (
    "black_box_sum",
    "declared_length",
    "documents_apart",
    "future_flip",
    "normalization",
    "order",
    "prefix_truncation",
    "rerun",
    "round_trip",
    "streaming_equals_batch",
    "target_flip",
    "world_size",
)


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


class Here:
    """Stands in for `artifact` and `decoder`: the same runs, in this process. A fresh evaluator for each stream."""

    def __init__(self, evaluator, score):
        self.evaluator, self.score = evaluator, score

    def probe(self, pyz, base, requests, *, evaluator: str, options: dict) -> list[artifact.Result]:
        results = []
        for request in requests:
            tokens = base[: request.length + 1].copy()
            tokens[request.position : request.position + len(request.ids)] = request.ids
            fresh = self.evaluator()
            carries = bool(getattr(fresh, "carries", True))
            if carries and (request.span or request.part != (0, 1)):
                results.append(artifact.Result({"carries": carries}, np.full(request.length, np.nan), {}))
                continue
            try:
                ledger = self.score(fresh, tokens, declared=request.declared, keep_rows=request.rows, part=request.part, span=request.span)
            except (ValueError, AssertionError, IndexError, RuntimeError) as error:
                raise artifact.Failed(str(error)) from None
            results.append(artifact.Result({"carries": carries}, ledger.nats, ledger.rows, np.array(ledger.commits).reshape(-1, 3)))
        return results

    @contextlib.contextmanager
    def streamed(self, pyz, *, evaluator: str, options: dict, num_targets: int, first: int):
        one = Stream(self.evaluator(streaming=True), num_targets, first)
        push = one.push
        one.push = lambda ids: [push(int(token)) for token in ids]
        one.refused, one.carries = (), bool(getattr(one.evaluator, "carries", True))
        yield one

    def decode(self, pyz, code: bytes, *, evaluator: str, options: dict, num_targets: int, first: int, count: int) -> np.ndarray | str:
        coded, found = arithmetic.Decoder(code), []
        with self.streamed(pyz, evaluator=evaluator, options=options, num_targets=num_targets, first=first) as one:
            for _ in range(count):
                found.append(coded.get(arithmetic.frequencies(one.dist())))
                one.push(found[-1:])
        return np.array(found)


def audit(
    monkeypatch, evaluator, *, claims=("causal", "score_first", "single_pass"), score=harness.score, seed=11, text=None, **settings
) -> dict[str, Verdict]:
    """Evaluate and audit: `evaluator(streaming=False)` makes a fresh one. The verdicts of all checks of behaviour."""
    tokens = stream() if text is None else text
    here = Here(evaluator, score)
    nats = score(evaluator(), tokens, declared=len(tokens) - 1).nats
    monkeypatch.setattr(artifact, "probe", here.probe)
    monkeypatch.setattr(artifact, "Stream", here.streamed)
    monkeypatch.setattr(decoder, "run", here.decode)
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
        script=Path("none"),
        package=None,
        metrics={
            "claims": list(claims),
            "bytes": 3 * len(tokens),
            "bits_per_byte": float(nats.sum()) / np.log(2) / 3 / len(tokens),
            "refused": [],
        },
        settings=AuditSettings(seed=seed, **(SETTINGS | settings)),
    )
    return {name: stage_audit.judged(importlib.import_module(f"stages.audit.checks.{name}"), evidence) for name in BEHAVIOUR}


def failed(verdicts: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.verdict not in ("pass", "reported")}
