"""What made the artifact is read off dvc.lock and off what stages really opened; whoever touched val is named."""

import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_objects.fs.local import LocalFileSystem

from stages.audit import graph
from stages.audit.checks import lineage
from stages.lib.dvc import dvc_lock
from stages.lib.node import access_log, command, files, parallel, tensors
from tests.conftest import ROOT, run_node, set_leaf, write_lock

PYZ = "artifacts/package/submission.pyz"
VAL = "artifacts/tokenize/val/fineweb_val_000000.bin"


def lock(**stages):
    """A parsed dvc.lock: stage=(deps, outs), each a list of paths."""
    return {
        name: {"deps": [{"path": p, "md5": f"hash of {p}"} for p in deps], "outs": [{"path": p, "md5": f"hash of {p}"} for p in outs]}
        for name, (deps, outs) in stages.items()
    }


CLEAN = {
    "prepare": ([], ["artifacts/prepare/train", "artifacts/prepare/val"]),
    "tokenize@train": (["artifacts/prepare/train"], ["artifacts/tokenize/train"]),
    "tokenize@val": (["artifacts/prepare/val"], ["artifacts/tokenize/val"]),
    "train": (["artifacts/tokenize/train"], ["artifacts/train/model.safetensors"]),
    "calibrate": (["artifacts/train/model.safetensors", "artifacts/tokenize/train"], ["artifacts/calibrate/hessians.safetensors"]),
    "plain_score@train": (["artifacts/train/model.safetensors", "artifacts/tokenize/val"], ["artifacts/plain_score/train/metrics.json"]),
    "package": (["artifacts/train/model.safetensors", "artifacts/calibrate/hessians.safetensors"], [PYZ]),
}


@pytest.fixture
def walk(tmp_path):
    """The verdict on a made-up lock; every stage has opened what it declares, and what `opens` adds."""

    def verdict(*, opens=None, **changes):
        stages = lock(**(CLEAN | changes))
        for name, entry in stages.items():
            path = f"artifacts/records/{name}.{access_log.NAME}"
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(json.dumps([dep["path"] for dep in entry["deps"]] + (opens or {}).get(name, [])))
            entry["outs"].append({"path": path, "md5": files.md5(tmp_path / path)})
        return lineage.walk(stages, PYZ, f"hash of {PYZ}", root=tmp_path)

    return verdict


def test_artifact_that_never_met_val_has_a_clean_lineage(walk):
    verdict = walk()
    assert verdict.verdict == "pass" and verdict.positions == 5
    assert verdict.evidence["stages_above_the_artifact"] == ["calibrate", "package", "prepare", "tokenize@train", "train"]


@pytest.mark.parametrize("dep", ["artifacts/tokenize/val", VAL, "artifacts/prepare/val", "artifacts/tokenize", "artifacts"])
@pytest.mark.parametrize("name", ["train", "calibrate"])
def test_stage_that_declares_val_is_named_with_the_path(walk, dep, name):
    """Training on val, pre-quantization adaptation to it and GPTQ that is calibrated on it look alike from here."""
    deps, outs = CLEAN[name]
    verdict = walk(**{name: ([*deps, dep], outs)})
    assert verdict.verdict == "fail" and verdict.evidence["path"].startswith(PYZ) and verdict.evidence["path"].endswith(f"{name} <- {dep}")


def test_stage_that_reads_what_was_made_from_val_is_named_with_the_path(walk):
    verdict = walk(calibrate=([*CLEAN["calibrate"][0], "artifacts/plain_score/train/metrics.json"], CLEAN["calibrate"][1]))
    assert (
        verdict.verdict == "fail"
        and "calibrate <- artifacts/plain_score/train/metrics.json <- plain_score@train <- artifacts/tokenize/val"
        in verdict.evidence["path"]
    )


@pytest.mark.parametrize(
    "line, word",
    [
        (VAL, "the validation split"),
        ("artifacts/prepare/val/documents.jsonl", "the validation split"),
        ("artifacts/plain_score/train/metrics.json", "a file"),
        ("data/answers.txt", "a file"),
        (".dvc/cache/files/md5/00/11", "a file"),
    ],
)
def test_stage_that_opens_what_it_does_not_declare_is_named(walk, line, word):
    verdict = walk(opens={"calibrate": [line]})
    assert verdict.verdict == "fail" and verdict.evidence["reason"] == f"calibrate opened {word} that it does not declare"
    assert verdict.evidence["path"].endswith(f"calibrate <- {line}")


def test_stage_may_read_what_it_wrote_itself_and_stages_below_may_read_val(walk):
    assert walk(opens={"train": ["artifacts/train/model.safetensors"], "plain_score@train": [VAL], "tokenize@val": [VAL]}).verdict == "pass"


def test_broken_chain_of_hashes_fails(tmp_path):
    stages = lock(**CLEAN)
    stages["train"]["deps"][0]["md5"] = "older"
    assert lineage.walk(stages, PYZ, f"hash of {PYZ}", root=tmp_path).verdict == "fail"
    assert lineage.walk(lock(**CLEAN), PYZ, "another artifact", root=tmp_path).verdict == "fail"


def test_without_records_nothing_is_certified(tmp_path):
    verdict = lineage.walk(lock(**CLEAN), PYZ, f"hash of {PYZ}", root=tmp_path)
    assert verdict.verdict == "not_applicable" and "train has no record" in verdict.evidence["reason"]


@pytest.mark.parametrize("text", ["", "stages: [", "a: 1", "stages: {a: {deps: [1]}}", "stages: {a: 3}", "\xff"])
def test_unreadable_lock_is_a_sentence(tmp_path, text):
    (tmp_path / "dvc.lock").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="not a readable"):
        dvc_lock.read(tmp_path / "dvc.lock")


# what really runs


def judged(project):
    write_lock(project)
    return lineage.walk(dvc_lock.read(project / "dvc.lock"), PYZ, files.md5(project / PYZ), root=project)


def test_tiny_pipeline_opened_what_it_declares_and_nothing_else(finished):
    verdict = lineage.walk(dvc_lock.read(finished / "dvc.lock"), PYZ, files.md5(finished / PYZ), root=finished)
    assert verdict.verdict == "pass" and verdict.evidence["files_opened"] > 20
    assert {"train", "tokenize@train", "quantize"} <= set(verdict.evidence["stages_above_the_artifact"])
    assert json.loads((finished / "artifacts/tokenize/val.opened.json").read_text()) == [
        "artifacts/prepare/val/documents.jsonl",
        "artifacts/prepare/val/meta.json",
        "artifacts/vocabulary/tokenizer.model",
    ]
    assert "artifacts/train/model.safetensors" in json.loads((finished / "artifacts/ema/opened.json").read_text())


def read_first(path):
    return np.fromfile(path, np.uint8, 1)[0]


def through_a_link(path):
    os.symlink(os.path.abspath(path), "artifacts/compress/brotli_11/innocent.bin")
    open("artifacts/compress/brotli_11/innocent.bin", "rb").close()


WAYS = {
    "open": lambda: open(VAL, "rb").close(),
    "descriptor": lambda: os.close(os.open(VAL, os.O_RDONLY)),
    "memory map": lambda: np.memmap(VAL, np.uint8, "r"),
    "other spelling": lambda: open("artifacts/train/../tokenize/val/fineweb_val_000000.bin", "rb").close(),
    "absolute": lambda: open(os.path.abspath(VAL).encode(), "r+b").close(),
    "link": lambda: through_a_link(VAL),
    "another process": lambda: list(parallel.in_order(read_first, [VAL, VAL], processes=2)),
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow if way == "another process" else ()) for way in WAYS])
def test_stage_that_opens_val_behind_the_declaration_is_caught(project, monkeypatch, way):
    module = importlib.import_module("stages.compress.__main__")
    honest = module.main

    @functools.wraps(honest)
    def cheating(*arguments, **named):
        WAYS[way]()
        honest(*arguments, **named)

    monkeypatch.setattr(module, "main", cheating)
    run_node("compress", "brotli_11")
    verdict = judged(project)
    assert verdict.verdict == "fail"
    assert verdict.evidence["reason"] == "compress@brotli_11 opened the validation split that it does not declare"
    assert verdict.evidence["opened"] == [VAL] and "compress@brotli_11" in verdict.evidence["path"]


def test_adaptation_to_val_is_refused_by_its_declaration(project):
    tree = yaml.safe_load((project / "params.yaml").read_text())
    for path, value in {"prequant_ttt.split": "val", "prequant_ttt.epochs": 1}.items():
        set_leaf(tree, path, value)
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    run_node("prequant_ttt")
    verdict = judged(project)
    assert verdict.verdict == "fail" and verdict.evidence["path"].endswith("prequant_ttt <- artifacts/tokenize/val")
    assert verdict.evidence["reason"] == "the artifact descends from the validation split"


def test_calibration_on_val_by_a_hidden_path_is_caught(project):
    """The paths are options: `--train` may name val, and the declaration in dvc.yaml still says train."""
    os.symlink("fineweb_val_000000.bin", "artifacts/tokenize/val/fineweb_train_000000.bin")
    run_node("calibrate", "--train", "artifacts/tokenize/val")
    (project / "artifacts/tokenize/val/fineweb_train_000000.bin").unlink()
    verdict = judged(project)
    assert verdict.verdict == "fail" and verdict.evidence["reason"] == "calibrate opened the validation split that it does not declare"


def test_edited_or_missing_record_is_not_believed(project):
    write_lock(project)
    path = project / "artifacts/ema/opened.json"
    stages, artifact = dvc_lock.read(project / "dvc.lock"), files.md5(project / PYZ)
    path.write_text(path.read_text() + " ")
    verdict = lineage.walk(stages, PYZ, artifact, root=project)
    assert verdict.verdict == "not_applicable" and "MD5 differs" in verdict.evidence["reason"]
    path.unlink()
    assert "is missing" in lineage.walk(stages, PYZ, artifact, root=project).evidence["reason"]


def test_record_is_the_same_for_the_same_run_and_leaves_nothing_behind(project):
    before = (project / "artifacts/package/opened.json").read_bytes()
    run_node("package")
    assert (project / "artifacts/package/opened.json").read_bytes() == before
    assert access_log.JOURNAL not in os.environ and not any((project / "scratch/opened").iterdir())


def test_what_killed_runs_left_goes_by_age_and_nothing_else_does(tmp_path, monkeypatch):
    """Whether the process that made it is alive cannot be known: it may run in another container or on another machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("scratch/opened/old", "scratch/opened/new", "artifacts"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("artifacts/.opened.json.old.partial", "artifacts/.opened.json.new.partial", "scratch/opened/old/lines"):
        (tmp_path / name).touch()
    long_ago = time.time() - command.LEFT_OVER_SECONDS - 1
    for name in ("scratch/opened/old/lines", "scratch/opened/old", "artifacts/.opened.json.old.partial"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    with command.recorded(tmp_path / "artifacts/opened.json"):
        pass
    assert [path.name for path in (tmp_path / "scratch/opened").iterdir()] == ["new"]
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == [".opened.json.new.partial", "opened.json"]


ENDING = """
import sys
from pathlib import Path
from stages.lib.node import command
for turn in range(300):
    with command.recorded(Path(f"artifacts/{sys.argv[1]}/opened.json")):
        pass
"""


def test_stages_that_end_at_the_same_moment_leave_each_other_alone(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ending = [subprocess.Popen([sys.executable, "-c", ENDING, name], cwd=tmp_path, env=environment) for name in "ab"]
    assert [process.wait(timeout=60) for process in ending] == [0, 0]


def test_outputs_are_not_lost_with_their_record(tmp_path, monkeypatch, capsys):
    """The record has its room from the start of the stage on; a record that cannot be complete says so, and no audit rules on it."""
    monkeypatch.chdir(tmp_path)
    with command.recorded(tmp_path / "artifacts/opened.json"):
        assert [path.stat().st_size for path in (tmp_path / "artifacts").glob(".opened.json.*.partial")] == [command.RESERVED_BYTES]
        shutil.rmtree(tmp_path / "scratch")
    assert "the outputs are complete" in capsys.readouterr().err
    entry = {"outs": [{"path": "artifacts/opened.json", "md5": files.md5(tmp_path / "artifacts/opened.json")}]}
    lines, why = graph.record({"ema": entry}, "ema", tmp_path)
    assert lines is None and "is no list of paths (" in why and why.endswith("run: dvc repro --force ema")


def test_failed_stage_leaves_the_record_with_the_outputs_that_it_belongs_to(project, capsys):
    before = (project / "artifacts/ema/opened.json").read_bytes()
    (project / "artifacts/train/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        run_node("ema")
    assert (project / "artifacts/ema/opened.json").read_bytes() == before and "damaged" in capsys.readouterr().err
    assert access_log.JOURNAL not in os.environ and not any((project / "scratch/opened").iterdir())


def test_only_reading_counts_and_only_of_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("artifacts/a", "artifacts/b", "data/c", "elsewhere", "stages.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with command.recorded(tmp_path / "artifacts/opened.json"):
        for name, mode in (("artifacts/a", "r"), ("artifacts/b", "w"), ("data/c", "r+"), ("elsewhere", "r"), ("stages.py", "rb")):
            open(name, mode).close()
        tensors.access_log.report("artifacts/d")
    open("artifacts/b").close()  # after the stage
    assert json.loads((tmp_path / "artifacts/opened.json").read_text()) == ["artifacts/a", "artifacts/d", "data/c"]


WORKER = """
import sys
from pathlib import Path
from stages.lib.node import command
with command.recorded(Path("artifacts/opened.json")):
    open(f"artifacts/{sys.argv[1]}").close()
"""


def test_process_that_began_the_run_collects_the_lines_of_all_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()
    for name in "abc":
        (tmp_path / "artifacts" / name).touch()
    with command.recorded(tmp_path / "artifacts/opened.json"):
        environment = os.environ | {"TORCHELASTIC_RUN_ID": "1", "PYTHONPATH": str(ROOT)}
        workers = [subprocess.Popen([sys.executable, "-c", WORKER, name], env=environment) for name in "ab"]
        open("artifacts/c").close()
        assert [worker.wait(timeout=20) for worker in workers] == [0, 0]
        assert not (tmp_path / "artifacts/opened.json").exists()
    assert json.loads((tmp_path / "artifacts/opened.json").read_text()) == ["artifacts/a", "artifacts/b", "artifacts/c"]


def test_rank_0_records_what_the_processes_of_other_machines_opened(tmp_path, monkeypatch):
    """Workers that torchrun was told by hand to start have no folder in common; the store of their group has what they opened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    store = torch.distributed.HashStore()
    for rank, name in ((1, "b\udcff"), (0, "a")):
        monkeypatch.setenv("RANK", str(rank))
        with command.recorded(tmp_path / "artifacts/opened.json"):
            access_log.report(Path(f"artifacts/{name}"))
            command.give_opened(store, "train", rank, 2)
        assert (tmp_path / "artifacts/opened.json").exists() == (rank == 0)
    assert json.loads((tmp_path / "artifacts/opened.json").read_text()) == ["artifacts/a", "artifacts/b\udcff"]


def test_md5_of_a_folder_is_the_one_that_dvc_takes(tmp_path):
    (tmp_path / "folder/b").mkdir(parents=True)
    (tmp_path / "folder/b/c.txt").write_text("c")
    (tmp_path / "folder/a.txt").write_text("a")
    file_system = LocalFileSystem()
    _, _, built = build(HashFileDB(file_system, str(tmp_path / "cache")), str(tmp_path / "folder"), file_system, "md5")
    assert graph.md5(tmp_path / "folder") == built.hash_info.value


def test_codec_that_was_dropped_before_packing_is_no_part_of_the_lineage(tmp_path):
    """`make sweep` packs with one codec; DVC keeps the entries of the others, which read earlier weights."""
    weights, entries = "artifacts/quantize/model.safetensors", {}
    for codec, md5 in (("covariance", "new"), ("ans", "old")):
        entries[f"compress@{codec}"] = {
            "deps": [{"path": weights, "md5": md5}],
            "outs": [{"path": f"artifacts/compress/{codec}/model.blob", "md5": codec}],
        }
    entries["quantize"] = {"outs": [{"path": weights, "md5": "new"}]}
    for runs, stale in (({"covariance": {}}, 0), ({"covariance": {}, "ans": {}}, 1)):
        entries["package"] = {
            "deps": [{"path": "artifacts/compress", "md5": "all"}],
            "params": {"params.yaml": {"compress": {"runs": runs}}},
            "outs": [{"path": "artifacts/package/submission.pyz", "md5": "packed"}],
        }
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": entries}))
        found = graph.ancestry(dvc_lock.read(tmp_path / "dvc.lock"), "artifacts/package/submission.pyz")
        assert len(found.stale) == stale
