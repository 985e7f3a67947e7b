"""The benchmarks start, and those of single stages print what they promise."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lib.node import params

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem != "codecs" else ())
        for path in sorted((ROOT / "benchmarks").glob("*.py"))
    ],
)
def test_every_benchmark_starts(path):
    """The folder of a script comes first on the path of Python."""
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def run(*argv: str, which: str = "tokenize_speed") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / f"benchmarks/{which}.py"), *argv],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CADDIE_WORKERS": "1"},
    )


@pytest.mark.slow
def test_the_text_benchmark_prints_speed_bound_ratio_and_memory(tmp_path):
    path = tmp_path / "documents.jsonl"
    sources = sorted(Path(os.__file__).parent.glob("*.py"))[:40]
    path.write_text("".join(json.dumps({"text": source.read_text(encoding="utf-8")}) + "\n" for source in sources))
    done = run("--path", str(path), "--sizes", "0.3")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("| ")]
    values = {tuple(cells[:2]): float(cells[2]) for cells in rows if cells[-1][-1:].isdigit()}
    for tokenizer in ("nmt_nfkc", "lossless", "lossless, CaseOps"):
        ours, bound = values["tokenize, train and val", tokenizer], values["bound: sentencepiece, in memory", tokenizer]
        assert ours > 0 and abs(values["tokenize, train and val / bound", tokenizer] - ours / bound) < 0.02  # all are rounded
    peaks = {cells[0]: float(cells[3]) for cells in rows if len(cells) == 5 and cells[0] != "stage"}
    assert set(peaks) == {"prepare", "tokenize train", "tokenize val"} and 20 < min(peaks.values()) <= max(peaks.values()) < 2000
    assert "n = 1" in done.stdout and "Python" in done.stdout.splitlines()[-1]


def test_text_that_cannot_be_split_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text(json.dumps({"text": "one document"}) + "\n")
    done = run("--path", str(path), "--sizes", "1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "give more text with --path" in done.stderr


@pytest.mark.slow
def test_the_quantizers_benchmark_compares_at_the_published_rate(finished, tmp_path):
    table, picture = tmp_path / "table.csv", tmp_path / "picture.svg"
    done = run(
        "--artifacts",
        str(finished / "artifacts"),
        str(finished / "artifacts"),
        "--methods",
        "scalar",
        "--bits",
        "--draws",
        "1",
        "--sequences",
        "4",
        "--threads",
        "1",
        "--table",
        str(table),
        "--picture",
        str(picture),
        which="quantize",
    )
    assert done.returncode == 0, done.stderr
    with open(table, newline="") as handle:
        published, ours, *again = csv.DictReader(handle)
    assert [row | {"model": "0", "seconds": ""} for row in again] == [row | {"seconds": ""} for row in (published, ours)]
    assert (published["setting"], ours["setting"]) == ("6 bits, 12.85", "as GPTQ")
    assert abs(float(ours["bits_per_weight"]) - float(published["bits_per_weight"])) < 0.05
    assert f"| {float(ours['kl']) / float(published['kl']):.1%} | 0.0% |" in done.stdout and picture.read_text().startswith("<?xml")


def test_the_codecs_benchmark_weighs_the_pipelines_weights(finished, tmp_path):
    weights, table = finished / "artifacts/quantize/model.safetensors", tmp_path / "table.csv"
    done = run(str(weights), "--runs", "zlib_9", "ans", "--csv", str(table), which="codecs")
    assert done.returncode == 0 and not done.stderr, done.stderr
    with open(table, newline="") as handle:
        found = {row["run"]: int(row["bytes"]) for row in csv.DictReader(handle)}
    assert set(found) == {"zlib_9", "ans"} and all(0 < size < weights.stat().st_size for size in found.values())


@pytest.mark.slow
def test_the_speed_of_the_quantizer_is_measured_at_the_asked_rate():
    done = run("pr1855", "--rounds", "1", "--width", "128", "--threads", "1", which="quantize_speed")
    rates = [float(line.strip("| ").split("|")[-1]) for line in done.stdout.splitlines() if line.startswith("| pr1855")]
    asked = params.read(ROOT / "params.yaml")["quantize"]["entropy"]["bits_per_weight"]
    assert done.returncode == 0 and len(rates) == 2 and abs(rates[1] - asked) < 0.05, done.stdout + done.stderr


def test_steps_tunes_each_candidate_on_the_first_seed_and_repeats_no_training(tmp_path, monkeypatch):
    from benchmarks import steps

    tree = {"model": {}, "train": {"seed": 0, "steps": 0, "matrix_learning_rate": 0.5, "embedding_learning_rate": 0.5}}
    trees = {"baseline": tree, "other": tree | {"model": {"width": 1}}}
    (tmp_path / "train").mkdir()
    (tmp_path / "train/meta.json").write_text('{"text_sha256": "0"}')
    done = []

    def loss(tokens, tree):
        rate, wanted = tree["train"]["matrix_learning_rate"], 1.0 if tree["model"] else 0.5
        done.append((bool(tree["model"]), tree["train"]["seed"], rate))
        return abs(rate - wanted) + tree["train"]["seed"]

    monkeypatch.setattr(steps, "loss", loss)
    for _ in range(2):
        runs = steps.Trainings(tmp_path, trees, [1.0, 2.0], 2, tmp_path / "results.jsonl")
        chosen, losses = runs.tuned({"baseline": 8, "other": 8}, [3, 4])
        assert chosen == {"baseline": 1.0, "other": 2.0} and losses == {"baseline": [3, 4], "other": [3, 4]}
        assert sorted(done) == [(False, 3, 0.5), (False, 3, 1.0), (False, 4, 0.5), (True, 3, 0.5), (True, 3, 1.0), (True, 4, 1.0)]


def test_steps_refuses_a_page_without_its_markers(tmp_path, monkeypatch):
    from benchmarks import steps

    page = tmp_path / "page.md"
    monkeypatch.setattr(steps, "PAGE", page)
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    page.write_text("before <a> old <b> after")
    steps.write("<a>", "<b>", ["new"])
    assert page.read_text() == "before <a>\n\nnew\n\n<b> after"
    with pytest.raises(ValueError, match="lacks '<c>'"):
        steps.write("<c>", "<b>", ["new"])
