import hashlib
import json
import lzma
import random
import tempfile
from pathlib import Path
from unittest import mock

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.node import files, stage
from stages.lib.text import corpus
from stages.text_compressors import __main__ as text_compressors
from stages.text_compressors import compressors
from tests.conftest import write_prepared

NAMES = tuple(compressors.COMPRESSORS)
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


def run(paths, compressors=NAMES, after_train=NAMES, train_bytes=10_000_000):
    text_compressors.main(text_compressors.TextCompressorsSettings(compressors, after_train, train_bytes), **paths)
    return files.read_json(paths["metrics"])


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20)
@given(data=st.binary(max_size=2000))
def test_a_compressed_text_is_the_text(name, data):
    assert DECOMPRESS[name](compressors.COMPRESSORS[name](data)) == data


@pytest.mark.parametrize("name", NAMES)
def test_what_was_compressed_is_seen_again_across_the_whole_text(name):
    # 200 kB apart and random: only a window that reaches back finds it
    data = random.Random(0).randbytes(200_000)
    compress = compressors.COMPRESSORS[name]
    assert len(compress(data + data)) < len(compress(data)) + 500


def test_each_compressor_is_measured_alone_and_after_train(paths):
    facts = run(paths)
    val = b"".join(json.loads(line)["text"].encode() for line in (paths["val"] / "documents.jsonl").read_bytes().splitlines())
    train = b"".join(json.loads(line)["text"].encode() for line in (paths["train"] / "documents.jsonl").read_bytes().splitlines())
    assert facts["val_bytes"] == len(val)
    assert facts["train_bytes"] == len(train)
    assert facts["text_sha256"] == hashlib.sha256((paths["val"] / "documents.jsonl").read_bytes()).hexdigest()
    assert tuple(facts["compressors"]) == NAMES
    for name, row in facts["compressors"].items():
        size = {data: len(compressors.COMPRESSORS[name](data)) for data in (val, train, train + val)}
        assert row["bytes"] == size[val]
        assert row["bits_per_byte"] == 8 * size[val] / len(val)
        assert row["bytes_after_train"] == size[train + val] - size[train]
        assert row["bits_per_byte_after_train"] == 8 * row["bytes_after_train"] / len(val)
        assert row["bytes_after_train"] < row["bytes"] / 4  # val is copied from train
        assert row["seconds"] >= 0


def test_sizes_are_the_same_in_every_run(paths):
    first, second = run(paths), run(paths)
    for facts in (first, second):
        for row in facts["compressors"].values():
            row.pop("seconds")
    assert first == second


def test_rows_after_train_are_of_those_that_are_named(paths):
    facts = run(paths, after_train=("xz_9e",))
    assert {name for name, row in facts["compressors"].items() if row["bytes_after_train"]} == {"xz_9e"}
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
    assert [line.split()[0] for line in said] == list(NAMES)
    assert all("bits per byte" in line and "bytes of train text" in line for line in said)


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
        (("zip",), "'zip' is not known; there are xz_9e, brotli_11, zstd_22"),
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
