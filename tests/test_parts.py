"""Parts of the work of `prepare` and `tokenize`, made in any order, give the bytes of one run, for any number of them."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.lib.node import files
from stages.lib.text import corpus, parts
from stages.lib.text.parts import Share
from stages.prepare import __main__ as prepare
from stages.prepare import blocks, local, split
from stages.tokenize import __main__ as tokenize
from stages.tokenize import sharding
from tests import repository
from tests.conftest import ROOT, run_node


def write_corpus(folder: Path) -> None:
    """Every kind of file: lines, compressed lines, text, an empty file, and a file without a last line end."""
    folder.mkdir()
    texts = [f"{number} " + "the cat sat on the mat. é\n" * (number % 17) for number in range(300)]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "a.jsonl").write_text("\ufeff" + "\n".join(lines[:120]), encoding="utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[120:160]).encode()))
    (folder / "c.txt").write_text(texts[33] * 5)
    (folder / "d.md").write_text("")
    (folder / "e.jsonl").write_text("\n\n".join(lines[160:]) + "\n")
    (folder / "f.txt").write_text("the last one")
    (folder / "g.jsonl").write_text("")


@pytest.fixture
def small(monkeypatch):
    """Tasks, chunks and pieces of a few lines, as a large corpus would have many."""
    monkeypatch.setattr(local, "TASK_BYTES", 700)
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 900)
    monkeypatch.setattr(sharding, "PIECE_BYTES", 64)
    monkeypatch.setenv("CADDIE_WORKERS", "1")


def outputs(node: str) -> dict[str, bytes]:
    """All files of a node by path, the record of opened files too."""
    folder = Path("artifacts", node)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_part(main, share: Share, variant: str | None = None) -> None:
    arguments = ["--part", str(share.part), "--of", str(share.of)]
    module = {"prepare": prepare, "tokenize": tokenize}[main]
    parts.run(module.main, module.part, [variant, *arguments] if variant else arguments)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 40])
def test_every_line_and_every_file_is_in_exactly_one_part(tmp_path, small, of):
    write_corpus(tmp_path / "corpus")
    paths = local.files(tmp_path / "corpus")
    whole = [document.text for task in local.tasks(paths) for document in local.parse(task)]
    spans = [Share(part, of).span(local.length(paths)) for part in range(1, of + 1)]
    found = [document.text for span in spans for task in local.tasks(paths, span) for document in local.parse(task)]
    assert found == whole and len(whole) == 303


def test_file_that_begins_where_a_part_ends_is_in_one_part(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"{number}" * (number != 3) * 9)
    paths = local.files(tmp_path)
    for of in (2, 4, 8, 73):
        spans = [Share(part, of).span(local.length(paths)) for part in range(1, of + 1)]
        assert [file for span in spans for task in local.tasks(paths, span) for file in task.files] == paths


def test_error_in_a_part_names_the_byte_of_the_line(tmp_path, small):
    path = tmp_path / "in.jsonl"
    good = json.dumps({"text": "x" * 300}) + "\n"
    path.write_text(good * 9 + "[]\n" + good)
    said = f"the line at byte {9 * len(good)}: a list"
    with pytest.raises(ValueError, match=said):
        [document for task in local.tasks([path], (5 * len(good) + 3, 12 * len(good))) for document in local.parse(task)]
    with pytest.raises(ValueError, match="line 10: a list"):
        list(local.documents(path))


def test_blocks_come_back(tmp_path):
    for dealt in (split.Hashed(1, 0.2, 0.2), split.First(1, 1)):
        given = [split.block([split.Document(text, text) for text in texts], dealt) for texts in (["a", "", "éé"], [], ["x" * 50])]
        folder = tmp_path / type(dealt).__name__
        folder.mkdir()
        assert blocks.write(folder, given) == 4
        found = list(blocks.read(folder))
        assert [(new.lines, new.sizes) for new in found] == [(old.lines, old.sizes) for old in given]
        assert [new.sides for new in found if new.lines] == [old.sides for old in given if old.lines]
    (folder / "lines").write_bytes((folder / "lines").read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short; remove it and run this part again"):
        list(blocks.read(folder))


@pytest.mark.parametrize(
    "rule", [{"split": "hash"}, {"split": "first", "val_documents": 40, "holdout_documents": 30}], ids=["hash", "first"]
)
@pytest.mark.parametrize("max_bytes", [None, 50_000])
def test_parts_of_prepare_give_the_bytes_of_one_run(project, small, monkeypatch, capsys, rule, max_bytes):
    write_corpus(project / "corpus")
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["prepare"] |= rule | {"path": "corpus", "max_bytes": max_bytes}
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run_node("prepare")
    whole = outputs("prepare")
    for of, order in ((3, (2, 3, 1)), (5, (5, 4, 3, 2, 1))):
        for part in order:
            run_part("prepare", Share(part, of))
        monkeypatch.setattr(local, "parse", None)  # the stage reads no document itself
        run_node("prepare")
        monkeypatch.undo()
        monkeypatch.chdir(project)
        monkeypatch.setattr(local, "TASK_BYTES", 700)
        assert outputs("prepare") == whole
        assert not list(Path("scratch").rglob("*-of-*")), "parts are removed when they are put together"
    assert f"part 1 of 5 is in {Path('scratch/prepare')}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["train", "val"])
def test_parts_of_tokenize_give_the_bytes_of_one_run(project, small, monkeypatch, variant):
    def split_only() -> dict[str, bytes]:
        return {path: content for path, content in outputs("tokenize").items() if path.startswith(variant)}

    run_node("tokenize", variant)
    whole = split_only()
    for of in (2, 5, 40):  # val has fewer chunks than 40
        for part in range(of, 0, -1):
            run_part("tokenize", Share(part, of), variant)
        with monkeypatch.context() as patched:
            patched.setattr(sharding, "encode", None)  # the stage encodes nothing itself
            run_node("tokenize", variant)
        assert split_only() == whole


def test_merging_that_was_killed_continues_to_the_same_bytes(project, small, monkeypatch):
    run_node("tokenize", "val")
    whole = outputs("tokenize")
    run_part("tokenize", Share(1, 2), "val")
    run_part("tokenize", Share(2, 2), "val")
    monkeypatch.setattr(sharding, "SAVE_SECONDS", 0)
    add, added = sharding.Writer.add, []

    def dies(self, encoded):
        added.append(encoded)
        if len(added) == 7:
            raise KeyboardInterrupt
        add(self, encoded)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(sharding.Writer, "add", dies)
        run_node("tokenize", "val")
    added.clear()
    monkeypatch.setattr(sharding.Writer, "add", lambda self, encoded: (added.append(encoded), add(self, encoded)))
    run_node("tokenize", "val")
    pieces = -(-2 * json.loads(Path("artifacts/tokenize/val/meta.json").read_text())["tokens"] // sharding.PIECE_BYTES)
    assert outputs("tokenize") == whole and len(added) <= pieces + 1 - 6


def test_missing_part_is_named_with_the_command_that_makes_it(project, small, capsys):
    for part in (1, 2, 4):
        run_part("tokenize", Share(part, 4), "val")
    made = next(Path("scratch/tokenize").glob("*.parts"))
    (made / ".3-of-4.17.partial").mkdir()  # left by a process that was killed
    with pytest.raises(SystemExit):
        run_node("tokenize", "val")
    said = capsys.readouterr().err
    assert "1 of 4 parts are missing" in said and "run it with --part 3 --of 4, or remove that folder" in said


def test_text_that_changed_after_a_part_was_made_is_refused(project, small, capsys):
    for part in (1, 2):
        run_part("tokenize", Share(part, 2), "val")
    path = Path("artifacts/prepare/val/documents.jsonl")
    content = path.read_bytes()
    path.unlink()  # it may be a link
    path.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    with pytest.raises(SystemExit):
        run_node("tokenize", "val")
    assert "was changed after scratch/tokenize/" in capsys.readouterr().err


def test_parts_of_other_parameters_are_not_read(project, small, tree):
    for part in (1, 2):
        run_part("tokenize", Share(part, 2), "val")
    tree({"tokenize.shard_tokens": 777})
    run_node("tokenize", "val")
    assert len(list(Path("scratch/tokenize").glob("*.parts/*-of-2"))) == 2


def test_what_a_part_opened_is_in_the_record_of_the_stage(project, small, tree):
    """A part cannot be a way around the record: the audit sees what it read."""
    write_corpus(project / "data")
    tree({"prepare.path": "data"})
    for part in (1, 2):
        run_part("prepare", Share(part, 2))
    record = next(Path("scratch/prepare").glob("*.parts/1-of-2/opened.json"))
    files.write_json(record, {})  # an empty record would hide it
    record.write_text(json.dumps([*json.loads(record.read_text()), "artifacts/tokenize/val/meta.json"]))
    run_node("prepare")
    opened = json.loads(Path("artifacts/prepare/opened.json").read_text())
    assert "artifacts/tokenize/val/meta.json" in opened and "data/e.jsonl" in opened


@pytest.mark.parametrize(
    "node, words, sentence",
    [
        ("tokenize", ["val", "--part", "0", "--of", "4"], "parts are numbered from 1 to the number after --of"),
        ("tokenize", ["val", "--part", "5", "--of", "4"], "parts are numbered from 1 to the number after --of"),
        ("prepare", ["--part", "1", "--of", "2", "--params", "gone.yaml"], "gone.yaml"),
    ],
)
def test_part_that_there_cannot_be_is_a_sentence(project, node, words, sentence):
    command, environment = [sys.executable, "-m", f"stages.{node}", *words], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_builtin_text_has_no_parts(project, tree, capsys):
    tree({"prepare.source": "builtin"})
    with pytest.raises(SystemExit):
        run_part("prepare", Share(1, 2))
    assert "the built-in text is read in seconds and has no parts; run: dvc repro prepare" in capsys.readouterr().err


SBATCH = """#!/bin/bash
# Slurm's sbatch, which runs the job at once, once for each number of --array, and prints a number as the job's name.
while [ $# -gt 0 ]; do
  case "$1" in
    --array=1-*) last="${1#--array=1-}" ;;
    --wrap) command="$2"; shift ;;
    --dependency=afterok:*) [ "${1#*:}" = 17 ] || exit 1 ;;
  esac
  shift
done
for number in $(seq "${last:-1}" -1 1); do SLURM_ARRAY_TASK_ID=$number sh -c "$command" >> jobs.log 2>&1 || exit 1; done
echo 17
"""


@pytest.mark.slow
@pytest.mark.dvc
def test_script_of_the_page_gives_the_tokens_of_one_machine(finished, tmp_path):
    """The first script of docs/clusters.md as it stands, with a stand-in for Slurm, and then DVC has nothing left to do."""
    root = repository.committed(finished, tmp_path / "cluster")

    def made() -> dict[str, str]:
        paths = [path for node in ("prepare", "vocabulary", "tokenize") for path in (root / "artifacts" / node).rglob("*")]
        return {str(path.relative_to(root)): files.sha256(path) for path in paths if path.suffix in (".jsonl", ".model", ".bin")}

    whole = made()
    (root / "dvc.lock").unlink()
    shutil.rmtree(root / "artifacts")
    shutil.rmtree(root / ".dvc/cache")  # and with it the memory of finished runs
    script = re.search(r"^```bash\n(.*?)^```", (ROOT / "docs/clusters.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "sbatch").write_text(SBATCH)
    (tmp_path / "sbatch").chmod(0o755)
    repository.run(root, "bash", "-e", "-c", script, PATH=f"{tmp_path}:{os.environ['PATH']}")
    said = (root / "jobs.log").read_text()
    assert said.count("part 8 of 8 is in scratch/prepare/") == said.count("part 8 of 8 is in scratch/tokenize/") == 1
    assert made() == whole and len(whole) == 9
    assert "Running stage" not in repository.run(root, "dvc", "repro", "tokenize")
