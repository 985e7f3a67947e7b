"""The benchmarks start, and the one of the text pipeline prints what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_starts(path):
    """The folder of a script comes first on Python's path, and benchmarks/tokenize.py has the name of a standard module."""
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def run(*argv: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(ROOT / "benchmarks/tokenize.py"), *argv], capture_output=True, text=True, check=False,
                          env=os.environ | {"CADDIE_WORKERS": "1"})


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
