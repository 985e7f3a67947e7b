"""The round trip over all of val: it goes on where it was killed, on both sides, and fails for a ledger that is not the artifact's."""

import json

import numpy as np
import pytest

from stages.audit import certify, coding
from stages.lib.referee import artifact
from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import causal_slot
from tests.cheats import GEOMETRY, Session, stream
from tests.test_model import model

TOKENS = stream(130)
TOLD = {"evaluator": "one", "options": {}}


def evaluator(streaming=False):
    return causal_slot.Evaluator(model(trained=True), **GEOMETRY, learning_rate=0.05, steps=3)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Sessions in this process; `left` is how many distributions there are until it is killed, `asked` how many there were."""

    class Here(Session):
        make, score, left, asked, knows = staticmethod(evaluator), staticmethod(harness.score), 10_000, 0, 0

        def row(self):
            Here.left, Here.asked = Here.left - 1, Here.asked + 1
            if Here.left < 0:
                raise KeyboardInterrupt
            return super().row()

        def know(self, ids):
            Here.knows += len(ids)
            super().know(ids)

    monkeypatch.setattr(artifact, "Session", Here)
    monkeypatch.setattr(coding, "KEEP_EVERY", 16)
    Here.submission = tmp_path / "submission.pyz"
    Here.submission.write_bytes(b"x")
    return Here


def certified(here, folder, claims, count=129):
    folder.mkdir(exist_ok=True)
    code = certify.certify(here.submission, TOLD, TOKENS, claims, count, folder)
    return code, json.loads((folder / "certified.json").read_text())


def test_every_target_comes_back_from_as_many_bits_as_were_claimed(here, tmp_path, capsys):
    nats = harness.score(evaluator(), TOKENS).nats
    code, facts = certified(here, tmp_path / "work", nats)
    assert code == 0 and facts["tokens"] == facts["of_targets"] == 129 and facts["tokens_wrong"] == 0
    assert "PASSED" in capsys.readouterr().out
    assert facts["bits_claimed"] <= facts["bits"] <= facts["allowed"] and facts["nats"] == pytest.approx(nats.sum(), abs=1e-3)
    assert facts["largest_difference_nats"] < 1e-4
    code, facts = certified(here, tmp_path / "other", nats * 0.6)
    assert code == 1 and not facts["passed"] and facts["bits"] > facts["allowed"] and "FAILED" in capsys.readouterr().out


def test_decoder_is_told_only_the_bits_the_length_and_what_it_decoded(here, tmp_path):
    """With other bits it finds other tokens: nothing else tells it the text."""
    nats, about = harness.score(evaluator(), TOKENS).nats, {"num_targets": 129, "first": int(TOKENS[0])}
    state = coding.encode(here.submission, TOKENS, nats, 40, **TOLD)
    code = state.encoder.finish()
    assert np.array_equal(coding.decode(here.submission, code, 40, **about, **TOLD), TOKENS[1:41])
    other = bytes([code[0] ^ 255]) + code[1:]
    assert not np.array_equal(coding.decode(here.submission, other, 40, **about, **TOLD), TOKENS[1:41])


def test_decoder_that_gives_another_distribution_than_the_encoder_is_not_certified(here, tmp_path, monkeypatch):
    """An artifact that gives other bits in each session: nothing can be decoded."""
    sessions = []

    def drifting(self, *given, **more):
        sessions.append(self)
        Session.__init__(self, *given, **more)
        self.evaluator.model.embedding.weight.data += 0.05 * len(sessions)

    monkeypatch.setattr(here, "__init__", drifting)
    code, facts = certified(here, tmp_path / "work", harness.score(evaluator(), TOKENS).nats, count=40)
    assert code == 1 and facts["tokens_wrong"] > 0


@pytest.mark.parametrize("killed", [50, 129 + 70])
def test_killed_run_goes_on_where_it_was(here, tmp_path, killed):
    nats, folder = harness.score(evaluator(), TOKENS).nats, tmp_path / "work"
    whole = certified(here, tmp_path / "whole", nats)[1]
    here.left, here.asked = killed, 0
    with pytest.raises(KeyboardInterrupt):
        certified(here, folder, nats)
    here.left = 10_000
    code, facts = certified(here, folder, nats)
    assert code == 0 and facts == whole and here.asked <= 2 * 129 + 16 + 1  # what came after the last state, again
    assert (folder / "code").read_bytes() == (tmp_path / "whole/code").read_bytes()
