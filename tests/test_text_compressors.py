import hashlib
import json
import lzma
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import brotli
import pyppmd
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.node import files, stage
from stages.lib.text import corpus
from stages.runtime.blob.codecs import zpaq
from stages.text_compressors import __main__ as text_compressors
from stages.text_compressors import compressors, own_files, stale
from stages.text_compressors.compressors import Run
from tests.conftest import ROOT, write_prepared

LIBRARIES = tuple(name for name in compressors.COMPRESSORS if name not in compressors.PROGRAMS)
NAMES = tuple(name for name in compressors.COMPRESSORS if name not in compressors.absent(compressors.COMPRESSORS))
SLOW = [pytest.param(name, marks=pytest.mark.slow if name in compressors.PROGRAMS else ()) for name in NAMES]
QUICK = ("zstd_22", "ppmd_16")  # enough where it is not the compressor that is tested
DECOMPRESS = {
    "xz_9e": lzma.decompress,
    "brotli_11": brotli.decompress,
    "zstd_22": lambda blob: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompress(blob),
}


def story(seed: int, num_words: int) -> str:
    vocabulary = [word * n for word in ("ab", "cde", "fghi", "ö") for n in range(1, 20)]
    return " ".join(random.Random(seed).choices(vocabulary, k=num_words))


@pytest.fixture
def paths(tmp_path):
    shared = story(1, 2000)
    return {
        "train": write_prepared(tmp_path / "train", ["first " * 10, shared, story(2, 100)]),
        "val": write_prepared(tmp_path / "val", [shared[:3000], "\n", shared[3000:6000]]),
        "metrics": tmp_path / "metrics.json",
    }


def run(paths, compressors=QUICK, after_train=QUICK, train_bytes=10_000_000):
    text_compressors.main(text_compressors.TextCompressorsSettings(compressors, after_train, train_bytes), **paths)
    return files.read_json(paths["metrics"])


@pytest.mark.parametrize("name", LIBRARIES)
@settings(deadline=None, max_examples=20)
@given(data=st.binary(max_size=2000))
def test_a_compressed_text_is_the_text(name, data):
    packed = compressors.COMPRESSORS[name](data)
    if name == "ppmd_16":  # its format has neither a length nor an end
        decoder = pyppmd.Ppmd7Decoder(compressors.PPMD_ORDER, compressors.PPMD_BYTES)
        assert (decoder.decode(packed, len(data)) if data else b"") == data
    else:
        assert DECOMPRESS[name](packed) == data


@pytest.mark.skipif("zpaq_5" not in NAMES, reason="zpaq is not installed")
def test_what_zpaq_compressed_is_the_text():
    data = story(3, 500).encode()
    assert zpaq.decode(compressors.zpaq_5(data), size=len(data)) == data


@pytest.mark.parametrize("name", SLOW)
def test_what_was_compressed_is_seen_again_across_the_whole_text(name):
    # 200 kB apart and random: only a window that reaches back finds it
    data = random.Random(0).randbytes(200_000)
    compress = compressors.COMPRESSORS[name]
    assert len(compress(data + data)) < len(compress(data)) + 3000


@pytest.mark.parametrize("names", [QUICK, pytest.param(NAMES, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_each_compressor_is_measured_alone_and_after_train(paths, names):
    facts = run(paths, names, names)
    val = b"".join(json.loads(line)["text"].encode() for line in (paths["val"] / "documents.jsonl").read_bytes().splitlines())
    train = b"".join(json.loads(line)["text"].encode() for line in (paths["train"] / "documents.jsonl").read_bytes().splitlines())
    assert facts["val_bytes"] == len(val)
    assert facts["train_bytes"] == len(train)
    assert facts["text_sha256"] == hashlib.sha256((paths["val"] / "documents.jsonl").read_bytes()).hexdigest()
    assert tuple(facts["compressors"]) == names
    for name, row in facts["compressors"].items():
        size = {data: len(compressors.COMPRESSORS[name](data)) for data in (val, train, train + val)}
        assert row["bytes"] == size[val]
        assert row["bits_per_byte"] == 8 * size[val] / len(val)
        assert row["bytes_after_train"] == size[train + val] - size[train]
        assert row["bits_per_byte_after_train"] == 8 * row["bytes_after_train"] / len(val)
        assert row["bytes_after_train"] < row["bytes"]  # val is copied from train
        assert row["seconds"] >= 0 and row["peak_bytes"] > len(train + val)


def test_val_after_train_is_what_one_model_of_ppmd_adds_for_val(paths):
    train, val = story(1, 3000).encode(), story(2, 800).encode()
    encoder = pyppmd.Ppmd7Encoder(compressors.PPMD_ORDER, compressors.PPMD_BYTES)
    encoder.encode(train)
    added = len(encoder.encode(val)) + len(encoder.flush())
    difference = len(compressors.ppmd_16(train + val)) - len(compressors.ppmd_16(train))
    assert abs(added - difference) <= 5  # the range coder holds back up to 5 bytes, which end one text or the other


def test_peak_memory_is_that_of_the_compressor_alone():
    """A large parent does not count, and neither does another compressor that ran before."""
    kept = bytearray(300_000_000)
    small, large = compressors.run("zstd_22", b"a" * 1000), compressors.run("xz_9e", b"a" * 1000)
    assert 0 < small.peak_bytes < 60_000_000 < large.peak_bytes < len(kept)  # xz takes its tables of a 64 MB dictionary


@pytest.mark.skipif("zpaq_5" not in NAMES, reason="zpaq is not installed")
def test_memory_and_core_seconds_of_a_program_count_too():
    took = compressors.run("zpaq_5", story(5, 20_000).encode())
    assert took.peak_bytes > 60_000_000 and took.core_seconds > 0.05


def test_what_is_not_installed_is_left_out_and_named(paths, monkeypatch, capsys):
    monkeypatch.setattr(compressors.shutil, "which", lambda program: None)
    facts = run(paths, ("zstd_22", "zpaq_5"), ("zpaq_5",))
    assert list(facts["compressors"]) == ["zstd_22"]
    assert facts["absent"] == {"zpaq_5": compressors.absent(["zpaq_5"])["zpaq_5"]} and "apt-get install zpaq" in facts["absent"]["zpaq_5"]
    assert "zpaq_5     the program zpaq is not installed" in capsys.readouterr().out


def test_a_program_that_was_installed_since_makes_the_node_stale(paths, monkeypatch):
    tree = {"text_compressors": {"compressors": ["zstd_22", "zpaq_5"]}}
    assert not stale.is_stale(tree, paths["metrics"]), "nothing ran yet"
    monkeypatch.setattr(compressors.shutil, "which", lambda program: None)
    run(paths, ("zstd_22", "zpaq_5"), ())
    assert not stale.is_stale(tree, paths["metrics"])
    monkeypatch.setattr(compressors.shutil, "which", lambda program: f"/usr/bin/{program}")
    assert stale.is_stale(tree, paths["metrics"])


def test_a_compressor_that_fails_ends_in_one_sentence(monkeypatch):
    monkeypatch.setattr(compressors.sys, "executable", "/bin/false")
    with pytest.raises(
        ValueError, match=r"zstd_22 failed on 3 bytes of text \(exit code 1\); leave it out of text_compressors.compressors"
    ):
        compressors.run("zstd_22", b"abc")


@pytest.fixture
def fake_artifact(tmp_path):
    """A script with the command line of submission.pyz, which halves a file."""
    script = tmp_path / "submission.pyz"
    script.write_text(
        "import sys; what, path, flag, out = sys.argv[1:]; assert (what, flag) == ('compress', '--output')\n"
        "data = open(path, 'rb').read(); open(out, 'wb').write(data[::2])"
    )
    return script


def test_a_file_of_the_user_is_compressed_by_all_and_by_the_artifact(tmp_path, fake_artifact, capsys):
    path = tmp_path / "mine.txt"
    path.write_text(story(4, 300))
    own_files.main([str(path)], fake_artifact)
    said = capsys.readouterr().out
    rows = {cells[0]: cells for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()) if cells[1:]}
    data = path.read_bytes()
    for name in NAMES:
        assert rows[name][1] == f"{len(compressors.COMPRESSORS[name](data)):,}" and rows[name][-1] == "here"
    half = -(-len(data) // 2)
    assert rows["submission.pyz compress"][1:3] == [f"{half:,}", f"{8 * half / len(data):.3f}"]
    shown = [float(cells[2]) for name, cells in rows.items() if name in (*NAMES, "submission.pyz compress")]
    assert shown == sorted(shown, reverse=True) and "ts_zip" not in said and "left out" not in said


def test_without_an_artifact_the_table_says_how_to_make_it(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text(story(4, 50))
    monkeypatch.setattr(compressors, "run", lambda name, data: Run(10, 2.0, 1.0, 50_000_000))
    said = own_files.table(tmp_path / "mine.txt", tmp_path / "none.pyz")
    assert "none.pyz is missing; make it with: dvc repro package" in said
    assert f"| zstd_22 | 10 | {80 / (tmp_path / 'mine.txt').stat().st_size:.3f} | 2.0 |" in said


@pytest.mark.parametrize("name, size", own_files.PUBLISHED)
def test_published_results_are_shown_for_the_file_of_that_name_and_size_alone(tmp_path, monkeypatch, name, size):
    monkeypatch.setattr(compressors, "run", lambda compressor, data: Run(len(data) // 3, 1.0, 1.0, 1))
    for folder, bytes_of_it, is_shown in (("same", size, True), ("other", size - 1, False)):
        path = tmp_path / folder / name
        path.parent.mkdir()
        with open(path, "wb") as handle:
            handle.truncate(bytes_of_it)
        said = own_files.table(path, tmp_path / "none.pyz")
        for entry in own_files.PUBLISHED[name, size]:
            assert (f"| {entry.program} |" in said) == is_shown and (entry.source in said) == is_shown
            assert entry.bytes is None or entry.bits_per_byte == 8 * entry.bytes / size


@pytest.mark.parametrize("content", [None, b""])
def test_a_file_that_is_missing_or_empty_is_refused(tmp_path, content):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "stages.text_compressors", str(path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "name files with text in them" in done.stderr


@pytest.mark.parametrize("names", [("ppmd_16",), pytest.param(NAMES, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_sizes_are_the_same_in_every_run(paths, names):
    first, second = run(paths, names, names), run(paths, names, names)
    for facts in (first, second):
        for row in facts["compressors"].values():
            del row["seconds"], row["peak_bytes"]
    assert first == second


def test_rows_after_train_are_of_those_that_are_named(paths):
    facts = run(paths, after_train=("ppmd_16",))
    assert {name for name, row in facts["compressors"].items() if row["bytes_after_train"]} == {"ppmd_16"}
    with pytest.raises(ValueError, match=r"after_train names xz_9e, which is not in text_compressors\.compressors; add it there"):
        run(paths, ("zstd_22",), ("xz_9e",))


def test_where_none_is_named_train_is_not_read(paths):
    (paths["train"] / "documents.jsonl").write_bytes(b"not read")
    facts = run(paths, ("zstd_22",), ())
    assert facts["train_bytes"] == 0
    assert facts["compressors"]["zstd_22"]["bytes_after_train"] is None
    assert facts["compressors"]["zstd_22"]["bits_per_byte_after_train"] is None


def test_only_the_compressors_that_are_asked_for_are_run_in_that_order(paths):
    assert list(run(paths, ("zstd_22", "xz_9e"), ())["compressors"]) == ["zstd_22", "xz_9e"]


def test_results_are_printed_one_line_per_compressor(paths, capsys):
    run(paths)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == list(QUICK)
    assert all("bits per byte" in line and "bytes of train text" in line and line.endswith(" MB") for line in said)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=8), st.integers(0, 30), st.integers(1, 60))
def test_the_train_text_is_the_longest_end_of_whole_documents_that_fits(texts, max_bytes, chunk_bytes):
    ends = ["".join(texts[start:]) for start in range(len(texts) + 1)]
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(corpus, "CHUNK_BYTES", chunk_bytes):
        prepared = write_prepared(Path(folder) / "train", texts)
        assert "".join(corpus.last_texts(prepared, max_bytes)) == next(end for end in ends if len(end.encode()) <= max_bytes)
        assert list(corpus.texts(prepared)) == texts


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("brotli_12",), "text_compressors.compressors: 'brotli_12' is not known; did you mean 'brotli_11'?"),
        (("zip",), "'zip' is not known; there are xz_9e, brotli_11, zstd_22, ppmd_16, zpaq_5"),
        (("xz_9e", "xz_9e"), "each once"),
        ((), "it takes one or more of"),
    ],
)
def test_compressors_that_are_unknown_repeated_or_missing_are_refused(paths, names, said):
    with pytest.raises(ValueError) as caught:
        run(paths, names)
    assert said in str(caught.value)
    assert not paths["metrics"].exists()


def test_train_bytes_that_hold_no_document_are_refused(paths):
    with pytest.raises(ValueError, match=r"text_compressors\.train_bytes is 7, less than the last document of .*; raise it"):
        run(paths, train_bytes=7)


def test_val_without_text_is_refused(paths):
    (paths["val"] / "documents.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no text; run: dvc repro prepare"):
        run(paths)


def test_the_signature_declares_the_paths_and_the_section():
    contract = stage.contract(text_compressors.main)
    assert contract.inputs == ("artifacts/prepare/train", "artifacts/prepare/val")
    assert contract.outputs == ()
    assert contract.metrics == ("artifacts/text_compressors/metrics.json",)
    assert contract.sections == ("text_compressors",)


def test_published_results_are_those_of_the_docs():
    page = (ROOT / "docs/text.md").read_text()
    for (file, _), entries in own_files.PUBLISHED.items():
        for entry in entries:
            size, bits = ("", "1.63") if entry.bytes is None else (f"{entry.bytes:,} ", f"{entry.bits_per_byte:.3f}")
            assert f"| {file} | {entry.program} | {size}| {bits} | [" in page, entry
