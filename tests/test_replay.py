"""Replay, withheld and documents apart: how far, how exactly and how long they look, and what they say where they cannot."""

import numpy as np
import pytest
import torch

from stages.audit import replay
from stages.lib.referee import artifact
from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import online_bias, sliding
from tests.cheats import GEOMETRY, audit, failed, stream
from tests.test_model import model

SHORT = {"replayed": 60, "round_trip": 8}


def plain(streaming=False, **options):
    return sliding.Evaluator(model(trained=True), **GEOMETRY, **options)


def carrying(streaming=False):
    return online_bias.Evaluator(model(trained=True), **GEOMETRY, learning_rate=0.02)


def claims(change):
    """A harness of the artifact's own that changes its claims."""

    def score(evaluator, tokens, **more):
        ledger = harness.score(evaluator, tokens, **more)
        ledger.nats = change(ledger.nats.copy())
        return ledger

    return score


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("shift, expected", [(0.004, set()), (-0.004, set()), (0.006, {"replay"}), (-0.006, {"replay"})])
def test_replay_allows_the_rounding_of_other_shapes_and_no_more(monkeypatch, shift, expected):
    """`withheld` has the shapes of the claim, so it sees each of these."""
    found = failed(audit(monkeypatch, plain, score=claims(lambda nats: np.maximum(nats + shift, 0)), text=stream(150), **SHORT))
    assert found - {"round_trip"} == expected | {"withheld"}


@pytest.mark.parametrize("shift, verdict", [(5e-7, "pass"), (2e-6, "fail")])
def test_withheld_allows_a_millionth_of_a_nat(monkeypatch, shift, verdict):
    found = audit(monkeypatch, plain, score=claims(lambda nats: nats + shift), text=stream(150), **SHORT)
    assert found["withheld"].verdict == verdict and found["withheld"].positions == replay.WHOLE_POSITIONS
    assert found["replay"].verdict == "pass"


def test_too_high_claims_are_off_too_because_they_could_pay_for_others(monkeypatch):
    found = audit(monkeypatch, plain, score=claims(lambda nats: nats + 0.5), text=stream(150), **SHORT)["replay"]
    assert found.verdict == "fail" and "-0.500 on average" in found.evidence["reason"]


def test_replay_of_a_liar_ends_early_and_certifies_no_limit(monkeypatch):
    found = audit(monkeypatch, plain, score=claims(lambda nats: nats * 0.5), text=stream(400), replayed=110, round_trip=8)["replay"]
    assert found.verdict == "fail" and found.evidence["ended_early"] and found.evidence["at_most_bits_per_byte"] is None
    assert replay.ENOUGH <= found.evidence["off"] <= found.positions < found.evidence["drawn"]


def test_lie_at_the_end_of_a_text_is_out_of_a_short_reach_and_then_not_ruled(monkeypatch):
    """An evaluator that carries something is walked to every position; a reach saves the walk and gives up the rest, and says so."""

    def lie(nats):
        nats[200:] *= 0.5
        return nats

    text = stream(300)
    found = audit(monkeypatch, carrying, score=claims(lie), text=text, replay_reach=150, **SHORT)["replay"]
    assert found.verdict == "not_applicable" and found.evidence["last"] <= 150 and found.evidence["at_most_bits_per_byte"] is None
    assert "not ruled beyond target 150 of 299; set audit.replay_reach to null" in found.evidence["reason"]
    assert audit(monkeypatch, carrying, score=claims(lie), text=text, **SHORT)["replay"].verdict == "fail"
    assert audit(monkeypatch, plain, score=claims(lie), text=text, replay_reach=150, **SHORT)["replay"].verdict == "fail"


def test_one_session_is_asked_each_position_once(monkeypatch):
    """No other session that is told val runs beside it."""
    asked, told = [], []
    for evaluator in (plain, carrying):
        found = audit(monkeypatch, evaluator, text=stream(150), **SHORT)
        here, asked[:], told[:] = artifact.Session, [], []

        class Counting(here):
            def __enter__(self):
                told.append(0)
                return super().__enter__()

            def row(self):
                asked.append(self.stream.next_target if self.stream else 1)
                return super().row()

        monkeypatch.setattr(artifact, "Session", Counting)
        nats = harness.score(evaluator(), stream(150)).nats
        about = {"evaluator": "one", "options": {}, "tokens": stream(150), "claims": nats, "vocabulary": 50, "count": 60, "reach": None}
        result = replay.run("none", generator=np.random.default_rng(3), **about)
        assert sorted(asked) == result.positions.tolist() and len(told) == 1 and result.finished
        assert found["replay"].verdict == "pass" and len(result.drawn) == 60


@pytest.mark.parametrize("options, verdict", [({"reset_at": 1}, "pass"), ({}, "fail")])
def test_documents_are_apart_where_attention_stops_at_their_starts(monkeypatch, options, verdict):
    more = {"claims": ("causal", "documents_apart"), "text": stream(300), **SHORT}
    found = audit(monkeypatch, lambda streaming=False: plain(**options), **more)["documents_apart"]
    assert found.verdict == verdict and 1 <= found.positions <= 8
    assert (found.largest_deviation > 0) == (verdict == "fail") and found.evidence["tokens_changed"] >= 1


def test_documents_apart_is_only_reported_without_the_claim_or_a_second_document(monkeypatch):
    alone = np.where(stream(150) == 1, 2, stream(150))
    alone[0] = 1
    for text, named in ((stream(150), ("causal",)), (alone, ("causal", "documents_apart"))):
        found = audit(monkeypatch, plain, claims=named, text=text, **SHORT)["documents_apart"]
        assert found.verdict == "reported" and found.positions == 0 and found.evidence["reason"]


def test_rows_that_are_no_numbers_fail_and_do_not_stop_the_audit(monkeypatch):
    class Broken(sliding.Evaluator):
        """Scores what it is told all of, and breaks down where the rest is withheld."""

        def predict(self, seen, chunk):
            return super().predict(seen, chunk) * (float("nan") if (seen == 0).any() else 1.0)

    found = audit(monkeypatch, lambda streaming=False: Broken(model(trained=True), **GEOMETRY), text=stream(150), **SHORT)
    assert {"replay", "withheld", "round_trip"} <= failed(found) and "no distribution" in found["replay"].evidence["reason"]
