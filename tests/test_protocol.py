"""The protocol: whatever an artifact answers, or does not, ends in a claim, in rows that are distributions, or in one sentence."""

import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stages.lib.referee import artifact, jail
from tests.test_jail import SERVE, found, program


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(artifact, "SILENCE", 60)


def refused(pyz: Path, sentence: str, ask=lambda session: session.row()) -> None:
    with (
        pytest.raises(artifact.Failed, match=sentence),
        artifact.Session(pyz, evaluator="one", options={"deeds": {}}, num_targets=3, first=1) as one,
    ):
        ask(one)


def changed(folder: Path, replace: str, by: str) -> Path:
    assert replace in SERVE
    return program(folder, SERVE.replace(replace, by))


ROW = 'answer(struct.pack("<4d", 0.0, 0.0, 0.0, 0.0))'


@pytest.mark.parametrize(
    "replace, by, sentence",
    [
        (ROW, 'answer(struct.pack("<3d", 0.0, 0.0, 0.0))', "24 bytes in place of a row of 4 numbers"),
        (ROW, 'answer(struct.pack("<5d", *[0.0] * 5))', "an answer of 40 bytes where at most 32"),
        (ROW, 'answer(struct.pack("<4d", 0.0, float("nan"), 0.0, 0.0))', "no distribution"),
        (ROW, 'answer(struct.pack("<4d", 0.0, float("inf"), 0.0, 0.0))', "no distribution"),
        (ROW, 'answer(struct.pack("<4d", *[float("-inf")] * 4))', "no distribution"),
        (
            ROW,
            'out.write(struct.pack("<I", 0xFFFFFFFF)); out.flush(); out.write(bytes(64)); out.flush(); sys.exit(3)',
            "announced an answer of 4294967295 bytes where at most 32",
        ),
        (ROW, 'sys.stderr.write("x" * (1 << 22) + "\\nthe last words\\n"); sys.exit(3)', "the last words"),
        (ROW, "os._exit(3)", "exit code 3"),
        (ROW, "import signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended"),
        (ROW, 'sys.exit("submission.pyz: one sentence")', "^submission.pyz ended: one sentence$"),
        ("vocabulary = 4", "vocabulary = 'four'", "does not begin as docs/protocol.md says"),
        ("vocabulary = 4", "vocabulary = float('inf')", "does not begin as docs/protocol.md says"),
        ("vocabulary = 4", "vocabulary = 0", "does not begin as docs/protocol.md says"),
        ('"claims": []', '"claims": {"causal": 1}', "does not begin as docs/protocol.md says"),
        ('"claims": [], ', "", "does not begin as docs/protocol.md says"),
        (".encode())", ".encode() + bytes([255]))", "does not begin as docs/protocol.md says"),
        ("answer(json.dumps", 'answer(b"[" * 60000); (json.dumps', "does not begin as docs/protocol.md says"),
    ],
)
def test_answer_against_the_protocol_is_a_sentence_and_no_crash(tmp_path, replace, by, sentence):
    refused(changed(tmp_path, replace, by), sentence)


def test_artifact_of_another_vocabulary_is_refused_before_it_is_asked(tmp_path):
    more = {"evaluator": "one", "options": {"deeds": {}}, "num_targets": 3, "first": 1}
    with (
        pytest.raises(artifact.Failed, match="answers rows of 4 tokens, the text has 5"),
        artifact.Session(program(tmp_path), vocabulary=5, **more),
    ):
        pass
    with artifact.Session(program(tmp_path), vocabulary=4, **more) as session:
        assert len(session.row()) == 4


def test_rows_are_normalized_by_the_referee(tmp_path):
    pyz = changed(tmp_path, ROW, 'answer(struct.pack("<4d", 5.0, 700.0, 0.0, float("-inf")))')
    with artifact.Session(pyz, evaluator="one", options={"deeds": {}}, num_targets=3, first=1) as session:
        row = session.row()
    assert row[1] == 0.0 and row[0] == -695.0 and row[3] == -float("inf")


@pytest.mark.slow
def test_silence_ends_a_session(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "SILENCE", 3)
    started = time.perf_counter()
    refused(changed(tmp_path, ROW, "import time; time.sleep(60)"), "no answer for 3 s")
    assert time.perf_counter() - started < 30


def test_messages_on_stdout_and_endless_stderr_do_not_disturb_the_answers(tmp_path):
    pyz = changed(tmp_path, ROW, 'sys.stderr.write("x" * (1 << 20)); sys.stderr.flush(); ' + ROW)
    with artifact.Session(pyz, evaluator="one", options={"deeds": {}}, num_targets=3, first=1) as session:
        for _ in range(3):
            assert len(session.row()) == 4
        assert len(session.said) <= artifact.KEPT_STDERR


SCORE = """
    elif kind == b"S":
        pieces = eval(about["pieces"])
        for first, nats in pieces:
            answer(struct.pack("<I", first) + struct.pack(f"<{len(nats)}d", *nats))
        answer(b"")
"""


@pytest.mark.parametrize(
    "pieces, targets",
    [
        ([(1, [1.0, 1.0]), (4, [1.0])], "1 targets from 4 on after target 2"),  # a gap
        ([(1, [1.0, 1.0]), (2, [0.0, 0.0])], "2 targets from 2 on after target 2"),  # one twice, cheaper
        ([(1, [1.0, 1.0, 1.0]), (1, [0.0])], "1 targets from 1 on after target 3"),  # a second pass
        ([(3, [1.0]), (1, [1.0, 1.0])], "2 targets from 1 on after target 3"),  # backwards
        ([(2, [1.0] * 4)], "4 targets from 2 on after target None, of 4"),  # too many
        ([(0, [1.0])], "1 targets from 0 on"),
        ([(1, [])], "0 targets from 1 on"),
        ([(4294967295, [1.0])], "from 4294967295 on"),
    ],
)
def test_claims_out_of_order_are_refused(tmp_path, pieces, targets):
    pyz = program(tmp_path, SERVE + SCORE)
    with pytest.raises(artifact.Failed, match=targets):
        artifact.claim(pyz, np.arange(5), evaluator="one", options={"deeds": {}, "pieces": repr(pieces)})


def test_claims_are_kept_as_they_come_and_a_short_claim_has_gaps(tmp_path):
    """NaN where nothing was claimed: `evaluate` and the check `claim` refuse it."""
    pyz, nats = program(tmp_path, SERVE + SCORE), []
    told = {"evaluator": "one", "options": {"deeds": {}, "pieces": "[(1, [0.5, 2.0]), (3, [0.25])]"}}
    claim = artifact.claim(pyz, np.arange(5), progress=nats.append, **told)
    assert claim.nats[:3].tolist() == [0.5, 2.0, 0.25] and claim.nats[3] != claim.nats[3] and nats == [2, 3] and claim.seconds > 0
    told["options"]["pieces"] = "[(1, [0.5, 2.0])] if not answer(b'12345') else 0"
    with pytest.raises(artifact.Failed, match="no target with 64-bit numbers"):
        artifact.claim(pyz, np.arange(5), **told)


def test_artifact_of_an_older_protocol_and_evaluators_that_are_not_packed_are_sentences(tmp_path):
    path = program(tmp_path)
    with pytest.raises(ValueError, match="packs the evaluators one, not 'two'"):
        artifact.Session(path, evaluator="two", options={}, num_targets=3, first=1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("caddie/data/manifest.json", json.dumps({"evaluators": ["one"]}))
    with pytest.raises(ValueError, match="speaks protocol 1, this referee speaks 2; pack it again"):
        artifact.packed(path, "one")
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a readable submission"):
        artifact.packed(path, "one")


def test_large_weights_are_decoded_once_by_a_session_that_is_told_no_token(tmp_path, monkeypatch):
    code = SERVE + '\n    elif kind == b"W":\n        answer(str(sys.argv).encode())\n'
    pyz = program(tmp_path, code)
    assert artifact.prepared(pyz, "one", {}) is None
    monkeypatch.setattr(artifact, "PREPARE_ONCE_BYTES", 3)
    look = {"weights": "result = open(sys.argv[2]).read()", "write": "open(sys.argv[2], 'a'); result = 'written'"}
    said = found(pyz, look)
    assert said["weights"].endswith("'serve']") and (said["write"].startswith("refused") or jail.form() == "none")
