"""The benchmarks start, and the one of the text pipeline prints what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_no_benchmark_hides_a_module_of_the_standard_library():
    """The folder of a script comes first on Python's path: benchmarks/tokenize.py would break all the others."""
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert names and not names & sys.stdlib_module_names


def run(*argv: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(ROOT / "benchmarks/tokenization.py"), *argv], capture_output=True, text=True, check=False,
                          env=os.environ | {"CADDIE_WORKERS": "1"})


def test_the_text_benchmark_prints_every_row_a_ratio_and_its_hardware(tmp_path):
    words = [f"word{a}{b}" for a in "abcdefghijklmnop" for b in "QRSTUvwxyz"]
    texts = [" ".join(words[(i * j) % len(words)] for j in range(1, 120)) for i in range(1, 60)]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = run("--path", str(path), "--sizes", "0.04", "--skip-memory")
    assert done.returncode == 1 and "vocabulary.size 1024" in done.stderr  # this text has no 1,024 pieces


def test_text_that_cannot_be_split_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text(json.dumps({"text": "one document"}) + "\n")
    done = run("--path", str(path), "--sizes", "1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "give more text with --path" in done.stderr
