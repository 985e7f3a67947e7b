"""The round trip over all of val: it goes on where it was killed, on both sides, and fails for a ledger that is not the artifact's."""

import contextlib
import io
import json

import numpy as np
import pytest

from stages.audit import certify, decoder
from stages.lib.referee import artifact
from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import causal_slot
from tests.cheats import GEOMETRY, Here, stream
from tests.test_model import model

TOKENS = stream(130)


def evaluator(streaming=False):
    return causal_slot.Evaluator(model(trained=True), **GEOMETRY, learning_rate=0.05, steps=3)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Streams and the decoder in this process; `left` is how many distributions there are until it is killed."""
    run = Here(evaluator, harness.score)
    run.left, run.asked, told = 10_000, 0, run.streamed

    @contextlib.contextmanager
    def streamed(*given, **more):
        with told(*given, **more) as one:
            dist = one.dist

            def counted():
                run.left, run.asked = run.left - 1, run.asked + 1
                if run.left < 0:
                    raise KeyboardInterrupt
                return dist()

            one.dist = counted
            yield one

    @contextlib.contextmanager
    def start(submission, folder, *, count, evaluator, options, num_targets, first):
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as said:
            decoder.main([str(submission), "code", "ids.npy", evaluator, json.dumps(options), str(num_targets), str(first), str(count)])
        yield type("Process", (), {"stdout": said.getvalue().split(), "returncode": 0})

    for module, name, value in (
        (artifact, "Stream", streamed),
        (decoder, "start", start),
        (decoder, "KEEP_EVERY", 16),
        (certify, "KEEP_EVERY", 16),
    ):
        monkeypatch.setattr(module, name, value)
    run.submission = tmp_path / "submission.pyz"
    run.submission.write_bytes(b"x")
    return run


def certified(here, folder, ledger):
    folder.mkdir(exist_ok=True)
    code = certify.certify(here.submission, "one", {}, TOKENS, ledger, len(TOKENS) - 1, folder)
    return code, json.loads((folder / "certified.json").read_text())


def test_every_target_comes_back_from_as_many_bits_as_the_ledger_says(here, tmp_path, capsys):
    nats = harness.score(evaluator(), TOKENS).nats
    code, facts = certified(here, tmp_path / "work", nats)
    assert code == 0 and facts["tokens"] == facts["of_targets"] == 129 and facts["tokens_wrong"] == 0
    assert "PASSED" in capsys.readouterr().out
    assert facts["bits_in_the_ledger"] <= facts["bits"] <= facts["allowed"] and facts["nats"] == pytest.approx(nats.sum(), abs=1e-3)
    code, facts = certified(here, tmp_path / "other", nats * 0.6)
    assert code == 1 and not facts["passed"] and facts["bits"] > facts["allowed"]


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
    assert np.load(folder / "ids.npy").tolist() == TOKENS[1:].tolist()
