"""Any size: the same bytes for any number of processes, and after a kill at any moment; memory does not hold the corpus."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.lib.node import command, files, parallel
from stages.lib.text import corpus
from stages.prepare import __main__ as prepare
from stages.prepare import local, split
from stages.runtime.tokens import shards
from stages.tokenize import __main__ as tokenize
from stages.tokenize import look, sharding
from stages.vocabulary import sentencepiece_training
from tests.conftest import ROOT, run_node, tiny_params, write_prepared
from tests.test_prepare import LOCAL, lines

TEXTS = [f"Text {n} says: NASA's {n * n} € and\n\nthe iPhone. " * (1 + n % 7) for n in range(200)]


@pytest.fixture(scope="module")
def model() -> bytes:
    return sentencepiece_training.train(TEXTS, size=330, character_coverage=0.999, sample_bytes=None)


@pytest.fixture
def small_chunks(monkeypatch):
    """Many chunks of a small text, recorded after each."""
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 700)
    monkeypatch.setattr(sharding, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(local, "TASK_BYTES", 700)
    monkeypatch.setattr(split, "SAVE_SECONDS", 0.0)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shard(out: Path, prepared: Path, model: bytes, *, progress=lambda count: None, shard_tokens: int = 3001) -> dict[str, bytes]:
    sharding.write(out, prepared, "val", model=model, shard_tokens=shard_tokens, sidecar=True, progress=progress)
    return content(out)


class Killed(BaseException):
    pass


def killing_after(count: int):
    left = [count]

    def progress(_):
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return progress


@pytest.mark.parametrize("kills", [(0,), (1,), (5, 0, 3), (20, 20), tuple([1] * 30)])
def test_killed_encoding_goes_on_where_it_stopped_with_the_same_shards(tmp_path, model, small_chunks, kills):
    prepared = write_prepared(tmp_path / "prepared", TEXTS)
    wanted = shard(tmp_path / "wanted", prepared, model)
    assert len(wanted) > 4
    assert wanted.keys() == {f"fineweb_val_{kind}{i:06d}.bin" for kind in ("", "bytes_") for i in range(len(wanted) // 2)}
    for count in kills:
        with pytest.raises(Killed):
            shard(tmp_path / "out", prepared, model, progress=killing_after(count))
        for path in (tmp_path / "out").glob("*.bin"):  # what was written behind the last record may be there or half there
            with open(path, "ab") as handle:
                handle.write(b"torn")
    seen = []
    assert shard(tmp_path / "out", prepared, model, progress=seen.append) == wanted
    assert seen[0] >= 700 * (sum(kills) - len(kills)), "it began again from the start"


def test_unfinished_shards_are_refused_by_every_reader(tmp_path, model, small_chunks):
    prepared = write_prepared(tmp_path / "prepared", TEXTS)
    with pytest.raises(Killed):
        shard(tmp_path / "out", prepared, model, progress=killing_after(9))
    with pytest.raises(ValueError, match="not a token shard"):
        shards.read_split(tmp_path / "out", "val")


def test_record_of_files_that_are_gone_is_not_trusted(tmp_path, model, small_chunks):
    prepared = write_prepared(tmp_path / "prepared", TEXTS)
    wanted = shard(tmp_path / "wanted", prepared, model)
    with pytest.raises(Killed):
        shard(tmp_path / "out", prepared, model, progress=killing_after(30))
    (tmp_path / "out/fineweb_val_000000.bin").unlink()
    assert shard(tmp_path / "out", prepared, model) == wanted


@pytest.mark.parametrize("kills", [(1,), (3, 0, 2), (20, 20)])
@pytest.mark.parametrize("rule", [{}, {"split": "first", "val_documents": 30, "holdout_documents": 17}])
def test_killed_preparing_goes_on_where_it_stopped_with_the_same_documents(tmp_path, monkeypatch, small_chunks, kills, rule):
    (tmp_path / "in.jsonl").write_bytes(lines(*TEXTS))
    chosen = replace(LOCAL, path=str(tmp_path / "in.jsonl"), **rule)

    def run(out: Path):
        prepare.main(
            chosen,
            documents=tmp_path / "in.jsonl",
            train=out / "train",
            holdout=out / "holdout",
            val=out / "val",
            metrics=out / "metrics.json",
            scratch=tmp_path / "scratch",
        )
        return content(out)

    wanted = run(tmp_path / "wanted")
    add, parsed = split.Writer.add, []
    monkeypatch.setattr(local, "block", lambda task, rule: parsed.append(task) or split.block(local.parse(task), rule))
    for count in kills:
        progress = killing_after(count)
        monkeypatch.setattr(split.Writer, "add", lambda self, block, progress=progress: (add(self, block), progress(0)))
        with pytest.raises(Killed):
            run(tmp_path / "out")
    monkeypatch.setattr(split.Writer, "add", add)
    del parsed[:]
    assert run(tmp_path / "out") == wanted
    assert len(parsed) <= len(list(local.tasks([tmp_path / "in.jsonl"]))) - sum(kills), "it began again from the start"


def test_first_documents_are_val_and_the_last_of_train_holdout(tmp_path, small_chunks):
    (tmp_path / "in.jsonl").write_bytes(lines(*TEXTS))
    out, chosen = tmp_path / "out", replace(LOCAL, split="first", val_documents=30, holdout_documents=17)
    prepare.main(
        chosen,
        documents=tmp_path / "in.jsonl",
        train=out / "train",
        holdout=out / "holdout",
        val=out / "val",
        metrics=out / "metrics.json",
        scratch=tmp_path / "scratch",
    )
    assert list(corpus.texts(out / "val")) == TEXTS[:30]
    assert list(corpus.texts(out / "train")) == TEXTS[30:-17]
    assert list(corpus.texts(out / "holdout")) == TEXTS[-17:]
    facts = files.read_json(out / "metrics.json")
    assert facts["documents"] == {"train": 153, "holdout": 17, "val": 30}
    assert facts["bytes"]["holdout"] == len("".join(TEXTS[-17:]).encode())


@pytest.mark.parametrize("val, holdout", [(200, 1), (190, 10), (50_000, 2_000)])
def test_too_few_documents_for_the_fields_split_are_refused(tmp_path, val, holdout):
    (tmp_path / "in.jsonl").write_bytes(lines(*TEXTS))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"the corpus has 200 documents; the first .* are val .* leaves none to train on"):
        prepare.main(
            replace(LOCAL, split="first", val_documents=val, holdout_documents=holdout),
            documents=tmp_path / "in.jsonl",
            train=out / "train",
            holdout=out / "holdout",
            val=out / "val",
            metrics=out / "m.json",
            scratch=tmp_path / "scratch",
        )
    assert not out.exists()


@pytest.mark.parametrize("chunk_bytes", [1, 13, 700, 10**6])
def test_chunks_hold_every_document_once_in_order(tmp_path, monkeypatch, chunk_bytes):
    prepared = write_prepared(tmp_path / "prepared", TEXTS[:40])
    monkeypatch.setattr(corpus, "CHUNK_BYTES", chunk_bytes)
    assert [text for start, end in corpus.chunks(prepared) for text in corpus.read_chunk(prepared, start, end)] == TEXTS[:40]


def commands(folder: Path, nodes: list[list[str]], **environment: str) -> list[subprocess.CompletedProcess]:
    return [
        subprocess.run(
            [sys.executable, "-m", f"stages.{node[0]}", *node[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            check=False,
        )
        for node in nodes
    ]


@pytest.fixture
def large(tmp_path) -> Path:
    """A folder with 20 MB of documents and the params to encode them: enough to be spread over processes."""
    (tmp_path / "documents").mkdir()
    rng = np.random.default_rng(0)
    with open(tmp_path / "documents/in.jsonl", "w") as handle:
        words = [word for text in TEXTS for word in text.split(" ")]
        for _ in range(2000):
            handle.write(json.dumps({"text": " ".join(rng.choice(words, 1800))}) + "\n")
    values = tiny_params()
    values["prepare"]["max_bytes"] = None
    values["tokenize"]["shard_tokens"], values["vocabulary"]["size"] = 1_000_000, 330
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.slow
def test_one_and_three_processes_and_a_killed_run_give_the_same_files(large):
    """The stages themselves, as processes: once with one worker, once with three, once with SIGKILL in the middle of each."""
    nodes = [["prepare"], ["vocabulary"], ["tokenize", "train"], ["tokenize", "val"]]
    written = []
    for workers in ("1", "3"):
        done = commands(large, nodes, CADDIE_WORKERS=workers)
        assert [process.returncode for process in done] == [0] * 4, [process.stderr for process in done]
        written.append(content(large / "artifacts"))
        for path in sorted((large / "artifacts").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert written[0] == written[1] and sum("fineweb_train" in name for name in written[0]) > 2
    for node in nodes:
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{node[0]}", *node[1:]],
            cwd=large,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT), "CADDIE_WORKERS": "3"},
            start_new_session=True,
        )
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (again,) = commands(large, [node], CADDIE_WORKERS="2")
        assert again.returncode == 0, again.stderr
    assert content(large / "artifacts") == written[0]
    assert not list((large / "scratch").rglob("*.bin"))


def test_documents_that_changed_after_preparing_are_named(project, capsys):
    path = project / "artifacts/prepare/val/documents.jsonl"
    path.write_bytes(path.read_bytes().replace(b"the", b"teh", 1))
    with pytest.raises(SystemExit):
        run_node("tokenize", "val")
    assert "is not what prepare wrote, it was changed since; run: dvc repro prepare" in capsys.readouterr().err
    assert (project / "artifacts/tokenize/val/meta.json").is_file()


def test_chunks_of_a_damaged_text_are_not_continued_from(tmp_path, model, small_chunks):
    """Damaged, refused, mended: the tokens are those of the mended text."""
    prepared = write_prepared(tmp_path / "prepared", TEXTS)
    (tmp_path / "m.model").write_bytes(model)
    path = prepared / "documents.jsonl"
    good = path.read_bytes()

    def run(out: str):
        tokenize.main(
            "val",
            tokenize.TokenizeSettings(3001),
            documents=prepared,
            model=tmp_path / "m.model",
            folder=tmp_path / out,
            scratch=tmp_path / "scratch",
        )
        return content(tmp_path / out)

    wanted = run("wanted")
    hashes = iter([files.sha256(path), "another"])  # changed while it was read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize.files, "sha256", lambda _: next(hashes))
        path.write_bytes(good.replace(b"iPhone", b"iphone"))
        with pytest.raises(ValueError, match="it was changed since"):
            run("out")
    path.write_bytes(good)
    assert run("out") == wanted


def test_worker_that_is_killed_costs_no_finished_chunk(tmp_path, model, small_chunks, monkeypatch):
    """As when memory runs out: what was recorded stays, and the sentence does not lie."""
    prepared = write_prepared(tmp_path / "prepared", TEXTS)
    (tmp_path / "m.model").write_bytes(model)
    kept = []

    def run():
        tokenize.main(
            "val",
            tokenize.TokenizeSettings(3001),
            documents=prepared,
            model=tmp_path / "m.model",
            folder=tmp_path / "out",
            scratch=tmp_path / "scratch",
        )

    def killed(function, tasks, **options):
        options["initializer"](*options["arguments"])
        for i, task in enumerate(tasks):
            if i == 12:
                raise parallel.WorkerKilled("a worker process was killed")
            yield function(task)

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "in_order", killed)
        with pytest.raises(ValueError, match="was killed"):
            run()
    add = sharding.Writer.add
    monkeypatch.setattr(sharding.Writer, "add", lambda self, encoded: (kept.append(self.chunks), add(self, encoded)))
    run()
    assert kept[0] == 12 and (tmp_path / "out/meta.json").is_file()


def test_other_code_does_not_continue_the_work(tmp_path, model, small_chunks, monkeypatch):
    prepared = write_prepared(tmp_path / "prepared", TEXTS)
    (tmp_path / "m.model").write_bytes(model)
    code = tmp_path / "code.py"
    monkeypatch.setattr(tokenize.closure, "paths", lambda module: [code])
    folders = []
    for text in ("old", "new"):
        code.write_text(text)
        monkeypatch.setattr(sharding, "write", lambda folder, *rest, **options: folders.append(folder.parent.name) or killing_after(0)(0))
        with pytest.raises(Killed):
            tokenize.main(
                "val",
                tokenize.TokenizeSettings(3001),
                documents=prepared,
                model=tmp_path / "m.model",
                folder=tmp_path / "out",
                scratch=tmp_path / "scratch",
            )
    assert len(set(folders)) == 2


def test_what_a_killed_process_left_beside_an_output_is_removed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = files.place()
    for name in (f".out.{here}.{gone.pid}.1.partial", f".out.{here}.{gone.pid}.1.old.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "large").write_text("x")
    alive = tmp_path / f".out.{here}.{os.getppid()}.1.partial"
    elsewhere = tmp_path / f".out.0123456789ab.{gone.pid}.1.partial"  # a number says nothing there
    alive.mkdir()
    elsewhere.mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("new")
    command.remove_left(tmp_path / "out")
    files.link(tmp_path / "source", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, elsewhere.name, "source", "out"])
    assert (tmp_path / "out/file").read_text() == (tmp_path / "source/file").read_text() == "new"


@pytest.mark.parametrize(
    "error, sentence",
    [
        (FileNotFoundError(errno.ENOENT, "x", "a/b"), "a/b is missing; check the spelling"),
        (IsADirectoryError(errno.EISDIR, "x", "a/b"), "a/b is a folder where a file is needed"),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/b"), "a/b needs a folder where there is a file"),
        (PermissionError(errno.EACCES, "x", "a/b"), "a/b may not be read or written by this user"),
        (OSError(errno.ENOSPC, "No space left on device", "source", None, "target"), "while writing target; free some space"),
    ],
)
def test_errors_of_the_file_system_are_sentences_with_a_way_out(capsys, error, sentence):
    with pytest.raises(SystemExit), command.sentences("node"):
        raise error
    assert sentence in capsys.readouterr().err


def test_linked_folders_are_read_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/in.jsonl").write_bytes(lines("one"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/in.jsonl").write_bytes(lines("two"))
    (tmp_path / "a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    assert [document.text for document in local.documents(tmp_path / "a")] == ["one", "two"]


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path):
    for i in (2, 999_999, 1_000_000):
        shards.write(tmp_path / f"fineweb_val_{i:06d}.bin", np.array([i % 1000]))
    assert shards.read_split(tmp_path, "val").tolist() == [2, 999, 0]


def test_full_disk_is_a_sentence_and_what_was_finished_stays(project, monkeypatch, capsys):
    before = content(project / "artifacts/tokenize/val")

    def full(self, name, values):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.folder / "fineweb_val_000000.bin"))

    monkeypatch.setattr(sharding.Writer, "_append", full)
    with pytest.raises(SystemExit):
        run_node("tokenize", "val")
    assert re.search(r"caddie tokenize: No space left on device while writing .*; free some space", capsys.readouterr().err)
    assert content(project / "artifacts/tokenize/val") == before


def test_train_has_no_sidecar_and_the_others_do(finished):
    names = {split: {path.name for path in (finished / "artifacts/tokenize" / split).iterdir()} for split in ("train", "holdout", "val")}
    assert not any("_bytes_" in name for name in names["train"])
    assert all(any("_bytes_" in name for name in names[split]) for split in ("holdout", "val"))
    meta = json.loads((finished / "artifacts/tokenize/val/meta.json").read_text())
    assert meta["counts"] == {"text": meta["bytes"], "sidecar": meta["bytes"], "pieces": meta["counts"]["pieces"]}
    assert 0 <= meta["bytes"] - meta["counts"]["pieces"] <= meta["documents"]  # a blank at the start of a document is free in the tables


def test_inspect_shows_what_a_person_wants_to_see(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    look.run(
        [
            "--inspect",
            "artifacts/tokenize/val/fineweb_val_000000.bin",
            "artifacts/tokenize/val/fineweb_val_bytes_000000.bin",
            "--documents",
            "2",
        ]
    )
    said = capsys.readouterr().out
    meta = json.loads(Path("artifacts/tokenize/val/meta.json").read_text())
    first = next(corpus.texts(Path("artifacts/prepare/val")))
    assert f"{meta['tokens']:,} tokens, {meta['documents']:,} documents begin in it, {meta['bytes']:,} bytes of text" in said
    assert repr(first[: look.LINE])[1:60] in said and said.count(" tokens) '") + said.count(' tokens) "') == 2
    assert f"byte sidecar of {meta['tokens']:,} tokens, {meta['bytes']:,} bytes" in said and "lossless" in said


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["nothing.bin"], "nothing.bin"),
        (["artifacts/vocabulary/tokenizer.model"], "not a token shard"),
        (["artifacts/tokenize/val/fineweb_val_000000.bin", "--model", "params.yaml"], "not a SentencePiece model"),
    ],
)
def test_inspecting_what_is_no_shard_is_a_sentence(project, capsys, arguments, sentence):
    with pytest.raises(SystemExit):
        look.run(["--inspect", *arguments])
    assert sentence in capsys.readouterr().err


def test_tokenize_command_knows_inspect():
    done = subprocess.run([sys.executable, "-m", "stages.tokenize", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--inspect" in done.stdout
    assert tokenize.main.__name__ == "main"
