"""Cheats are caught by the check that is there for them; honest evaluators never are; published forms get the verdicts of the field."""

import pytest
import torch

from tests import cheats, honest
from tests.cheats import audit, failed, load, stream
from tests.test_evaluators import LEAKING, VARIANTS, kind
from tests.test_model import model

SHORT = {"replayed": 25, "round_trip": 12}
HONEST = [name for name in VARIANTS if name not in LEAKING]


def maker(variant):
    """Makes fresh evaluators of a variant of tests/test_evaluators.py."""
    module = kind(variant)

    def make(streaming=False):
        options = VARIANTS[variant] | (getattr(module, "STREAM", {}) if streaming else {})
        return module.Evaluator(model(trained=True), **options)

    return make


def verdicts(monkeypatch, variant, **settings):
    module = kind(variant)
    claims = module.claims(VARIANTS[variant]) if hasattr(module, "claims") else module.CLAIMS
    return audit(monkeypatch, maker(variant), claims=claims, **settings)


def caught(monkeypatch, name):
    cheat = load(name)
    options = cheats.GEOMETRY | getattr(cheat, "OPTIONS", {})
    more = {"score": cheat.score} if hasattr(cheat, "score") else {}
    if hasattr(cheat, "CLAIMS"):
        more["claims"] = cheat.CLAIMS
    try:
        with torch.no_grad():
            return audit(monkeypatch, lambda streaming=False: cheat.Evaluator(model(trained=True), **options), **more)
    finally:
        getattr(cheat, "undo", lambda: None)()


def test_there_are_enough_cheats_and_each_says_what_catches_it():
    assert len(cheats.names()) >= 20
    assert {load(name).CAUGHT_BY for name in cheats.names()} == set(cheats.BEHAVIOUR) and all(load(name).__doc__ for name in cheats.names())


@pytest.mark.parametrize("name", cheats.names())
def test_cheat_is_caught_by_the_check_that_is_there_for_it(monkeypatch, name):
    assert load(name).CAUGHT_BY in failed(caught(monkeypatch, name))


@pytest.mark.parametrize("name", HONEST)
def test_honest_evaluator_raises_no_alarm(monkeypatch, name):
    found = verdicts(monkeypatch, name, text=stream(180), **SHORT)
    assert failed(found) == set(), {name: found[name].evidence for name in failed(found)}


def audited(monkeypatch, name, **settings):
    """The verdicts for an evaluator of tests/honest."""
    with torch.no_grad():
        return audit(monkeypatch, lambda streaming=False: honest.load(name).Evaluator(model(trained=True), **cheats.GEOMETRY), **settings)


@pytest.mark.parametrize("name", honest.names())
def test_honest_evaluator_of_an_unknown_kind_raises_no_alarm(monkeypatch, name):
    found = audited(monkeypatch, name, text=stream(180), **SHORT)
    assert failed(found) == set(), {name: found[name].evidence for name in failed(found)}
    assert found["replay"].positions > 10 and found["withheld"].positions > 10


@pytest.mark.parametrize("name", LEAKING)
def test_published_form_that_leaks_is_refused_whatever_it_claims(monkeypatch, name):
    found = verdicts(monkeypatch, name)
    assert {"withheld", "replay"} <= failed(found), {check: verdict.evidence for check, verdict in found.items()}


@pytest.mark.referee
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", HONEST)
def test_honest_evaluator_raises_no_alarm_with_any_seed(monkeypatch, name, seed):
    assert failed(verdicts(monkeypatch, name, seed=seed, text=stream(180, seed=seed), **SHORT)) == set()


@pytest.mark.referee
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", honest.names())
def test_honest_evaluator_of_an_unknown_kind_raises_no_alarm_with_any_seed(monkeypatch, name, seed):
    assert failed(audited(monkeypatch, name, seed=seed, text=stream(180, seed=seed), **SHORT)) == set()
