"""Stages as a whole: damage to an input is one sentence, outputs are whole or absent, text changes nothing it should not."""

import json
import signal
import subprocess
import sys

import pytest

from stages.lib.node import command, files
from tests.conftest import NODES, ROOT, run_node


def truncate(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize(
    "path, node, sentence",
    [
        ("artifacts/tokenize/train/fineweb_train_000000.bin", ("train",), "truncated or damaged"),
        ("artifacts/tokenize/val/fineweb_val_bytes_000000.bin", ("plain_score", "train"), "truncated or damaged"),
        ("artifacts/tokenize/val/meta.json", ("evaluate", "sliding"), "not valid JSON"),
        ("artifacts/train/model.safetensors", ("ema",), "damaged or was not written by Caddie"),
        ("artifacts/prequant_ttt/model.safetensors", ("calibrate",), "damaged or was not written by Caddie"),
        ("artifacts/calibrate/hessians.safetensors", ("quantize",), "damaged or was not written by Caddie"),
        ("artifacts/quantize/model.safetensors", ("compress", "zlib_9"), "damaged or is not a quantized model"),
        ("artifacts/compress/brotli_11/model.blob", ("package",), "not the blob that was checked"),
        ("artifacts/vocabulary/tokenizer.model", ("package",), "not a SentencePiece model"),
        ("artifacts/package/submission.pyz", ("evaluate", "sliding"), "not a readable submission"),
        ("artifacts/prepare/val/documents.jsonl", ("tokenize", "val"), "is not what prepare wrote"),
        ("artifacts/evaluate/sliding/metrics.json", ("audit", "sliding"), "not valid JSON"),
    ],
    ids=lambda part: part if isinstance(part, str) and part.startswith("artifacts") else None,
)
def test_truncated_input_is_one_sentence(project, capsys, path, node, sentence):
    truncate(project / path)
    with pytest.raises(SystemExit) as stopped:
        run_node(*node)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("caddie ")]
    assert stopped.value.code == 1 and len(said) == 1 and sentence in said[0], said
    assert not list((project / "artifacts").rglob("*.partial"))


@pytest.mark.parametrize("node", [node for node in NODES if node[0] not in ("prepare", "audit", "script")], ids="-".join)
def test_missing_input_names_the_stage_that_makes_it(project, capsys, node):
    (project / "artifacts").rename(project / "gone")
    with pytest.raises(SystemExit):
        run_node(*node)
    assert "is missing; run the stage that makes it: dvc repro " in capsys.readouterr().err


def test_shards_of_another_tokenizer_are_refused(project, capsys):
    meta = project / "artifacts/tokenize/val/meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"vocabulary_size": 10}))
    with pytest.raises(SystemExit):
        run_node("plain_score", "train")
    assert "run: dvc repro tokenize" in capsys.readouterr().err


def test_atomic_write_is_all_or_nothing(tmp_path):
    target = tmp_path / "folder" / "file"
    with files.atomic(target) as partial:
        partial.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and [p.name for p in target.parent.iterdir()] == ["file"]


def test_atomic_folder_replaces_the_old_one(tmp_path):
    for name in ("one", "two"):
        with files.atomic(tmp_path / "out") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["two"]


def test_full_disk_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped, command.sentences("train"):
        raise OSError(28, "No space left on device", "artifacts/x")
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and "free some space" in said and said.count("\n") == 1


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(AssertionError), command.sentences("train"):
        raise AssertionError


def test_interrupt_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped, command.sentences("train"):
        raise KeyboardInterrupt
    assert stopped.value.code == 130 and "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("node", sorted({node[0] for node in NODES}))
def test_every_command_has_a_help_text(node, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_node(node, "--help")
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and f"usage: python -m stages.{node}" in said and "(default: artifacts/" in said


def test_a_stage_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "stages.compress", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and "the quantized model" in done.stdout


def test_whole_pipeline_beside_itself_gives_the_same_bytes(project, finished):
    """Same params, same bytes: every stage but those that record a time."""
    timed = {"metrics.json", "certificate.json", "index.html", "summary.md", "sizes.csv"}
    for node in NODES:
        if node[0] in ("prepare", "vocabulary", "tokenize", "train", "ema", "prequant_ttt", "calibrate", "quantize", "compress", "package"):
            run_node(*node)
    compared = 0
    for path in (finished / "artifacts").rglob("*"):
        if path.is_file() and path.name not in timed:
            assert path.read_bytes() == (project / path.relative_to(finished)).read_bytes(), path
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("words", [("stages.recipes", "pr1855"), ("stages.train", "--help")], ids=" ".join)
def test_reader_that_closes_the_pipe_ends_a_command_without_a_word(words):
    """As in `python -m stages.recipes pr1855 | head -1`."""
    command = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command.stdout.close()
    ends = {128 + signal.SIGPIPE} | ({0} if "--help" in words else set())  # some versions of argparse forgive
    assert command.stderr.read() == b"" and command.wait() in ends


def test_pipe_to_another_process_that_breaks_is_still_an_error():
    with pytest.raises(BrokenPipeError), command.sentences("train"):
        raise BrokenPipeError
