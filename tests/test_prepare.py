import gzip
import hashlib
import io
import json
import lzma
import os
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib.node import files, stage
from stages.prepare import __main__ as prepare
from stages.prepare import fineweb, local, split

SENTENCE = "The quick brown fox jumps over the lazy dog and then it goes home to sleep."
OTHER = "A compressor is only as good as the model that it has of the text which it reads."
HUB = fineweb.Source(
    contents="documents",
    repository="someone/golf",
    revision="main",
    root="datasets",
    variant="sp1024",
    train_shards=1,
    files=("*.parquet",),
)
LOCAL = prepare.PrepareSettings("local", "data", 10_000_000, 1.0, "hash", 0, 0.3, 0.3, 50_000, 2_000, HUB)

COMPRESS = {"": lambda data: data, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}


def sentence(n: int) -> str:
    """A different sentence of prose for every n."""
    words = ["of the " + "abcdefghij"[int(digit)] * 4 for digit in str(n)]
    return f"This is the story {' and '.join(words)}, and it is told by the people who were there."


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def run(folder: Path, documents: Path, chosen: prepare.PrepareSettings = LOCAL) -> dict:
    paths = {name: folder / name for name in split.SPLITS}
    prepare.main(chosen, documents=documents, metrics=folder / "metrics.json", scratch=folder.with_name(folder.name + ".scratch"), **paths)
    return files.read_json(folder / "metrics.json")


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_bytes().decode().split("\n") if line]


# --- the split ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(), st.integers(0, 2**31))
def test_a_side_depends_on_unit_and_seed_only_and_larger_fractions_only_add(unit, seed):
    sides = [split.Hashed(seed, v, 0.2).side(unit) for v in (0.1, 0.5, 0.5, 0.8)]
    assert sides[1] == sides[2]
    if sides[0] == "val":
        assert sides[1] == sides[3] == "val"
    if sides[3] == "train":
        assert sides[0] == sides[1] == "train"


def test_the_sides_have_the_shares_that_were_asked_for():
    sides = [split.Hashed(3, 0.1, 0.2).side(f"u{n}") for n in range(5000)]
    assert abs(sides.count("val") / 5000 - 0.1) < 0.02
    assert abs(sides.count("holdout") / 5000 - 0.2) < 0.02


def test_a_fraction_of_the_documents_is_drawn_with_the_same_shares():
    sides = [split.Hashed(3, 0.1, 0.2, fraction=0.4).side(f"u{n}") for n in range(5000)]
    assert abs(sides.count(None) / 5000 - 0.6) < 0.02 and abs(sides.count("val") / 5000 - 0.04) < 0.01
    assert split.Hashed(3, 0.1, 0.2).side("u1") == split.Hashed(3, 0.1, 0.2, fraction=1.0).side("u1") is not None


def test_the_formula_of_the_split_does_not_change_silently():
    names = ("asyncio", "torch", "email", "numpy", "setuptools", "celery")
    sides = [split.Hashed(196, 0.06, 0.06).side(name) for name in names]
    assert sides == ["val", "train", "train", "train", "val", "holdout"]


def test_all_documents_of_a_package_are_on_one_side(tmp_path):
    documents = [split.Document(f"package{n % 20}", sentence(n)) for n in range(200)]
    rule = split.Hashed(0, 0.3, 0.3)
    writer = split.Writer(tmp_path, rule, max_bytes=None)
    writer.add(split.block(documents, rule))
    writer.finish()
    package = {document.text: document.unit for document in documents}
    sides = [{package[text] for text in texts(writer.path(name))} for name in split.SPLITS]
    assert sum(len(side) for side in sides) == 20


# --- local documents ------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=8))
def test_every_text_survives_byte_for_byte_and_equal_texts_are_on_one_side(tmp_path, some):
    given_texts = [*some, *(f"fill {n}" for n in range(60)), *some]
    (tmp_path / "in.jsonl").write_bytes(lines(*given_texts))
    facts = run(tmp_path / "out", tmp_path / "in.jsonl")
    sides = {name: texts(tmp_path / "out" / name / "documents.jsonl") for name in split.SPLITS}
    assert sorted(text for side in sides.values() for text in side) == sorted(given_texts)
    assert sum(len(set(side)) for side in sides.values()) == len(set(given_texts))
    for name, side in sides.items():
        content = (tmp_path / "out" / name / "documents.jsonl").read_bytes()
        assert facts["documents"][name] == len(side)
        assert facts["bytes"][name] == len("".join(side).encode())
        assert facts["sha256"][name] == hashlib.sha256(content).hexdigest()
        assert content.endswith(b"\n")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_folder_gives_its_files_in_sorted_order_without_its_readme_and_hidden_files(tmp_path, suffix):
    contents = {
        "b.jsonl": lines("two", "three"),
        "a.txt": "\ufeffone\r\n".encode(),
        "c/z.MD": "fünf".encode(),
        "c/readme.rst": b"four",
        "README.md": b"about this folder",
        ".hidden.txt": b"no",
        ".git/x.txt": b"no",
    }
    for name, content in contents.items():
        path = tmp_path / (name + suffix)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(COMPRESS[suffix](content))
    found = [document.text for document in local.documents(tmp_path)]
    assert found == ["one\r\n", "two", "three", "four", "fünf"]


def test_unescaped_and_non_ascii_text_is_written_as_it_is(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(*(f"größe {n} \u2028\n" for n in range(30))))
    run(tmp_path, tmp_path / "in.jsonl")
    assert "größe".encode() in (tmp_path / "train/documents.jsonl").read_bytes()


def test_blank_lines_between_json_lines_are_no_documents(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"\n" + lines("one") + b"  \r\n" + lines("two").rstrip())
    assert [document.text for document in local.documents(tmp_path / "in.jsonl")] == ["one", "two"]


def test_a_zst_file_may_have_several_frames_and_skippable_ones(tmp_path):
    frame = zstandard.ZstdCompressor().compress
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    (tmp_path / "in.jsonl.zst").write_bytes(frame(lines("one", "two")) + skippable + frame(lines("three")))
    assert [document.text for document in local.documents(tmp_path / "in.jsonl.zst")] == ["one", "two", "three"]


def test_a_compressed_file_is_read_as_a_stream(tmp_path):
    path = tmp_path / "in.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(lines(*(f"{n} " * 50 for n in range(20_000)))))
    handle = local._open(path)
    handle.readline()
    assert handle.raw.file.tell() <= local.ZSTD_READ_BYTES < path.stat().st_size / 4
    handle.close()


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".txt"])
def test_a_compressed_file_that_is_cut_is_refused_wherever_it_is_cut(tmp_path, suffix, kind):
    whole = COMPRESS[suffix](lines(*(sentence(n * n) for n in range(300))))
    path = tmp_path / f"in{kind}{suffix}"
    for length in (5, 20, len(whole) // 3, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{path.name} is cut short or damaged .* make it again"):
            list(local.documents(path))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(tmp_path, suffix):
    path = tmp_path / f"in.txt{suffix}"
    path.write_bytes(b"plain text of some length, not compressed at all")
    with pytest.raises(ValueError, match="damaged"):
        list(local.documents(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{not json}\n", r"line 2: not valid JSON \(.*\); each line must be an object"),
        (b"[" * 100_000 + b"\n", "line 2: not valid JSON"),
        (b"[1]\n", "line 2: a list, not an object"),
        (b'{"texts": "a", "id": 1}\n', r'line 2: the object lacks "text" \(it has id, texts\)'),
        (b'{"text": 5}\n', 'line 2: "text" is a int, not a string'),
        (b'{"text": null}\n', 'line 2: "text" is a NoneType, not a string'),
        (b'{"text": "a\\ud800b"}\n', 'line 2: character 1 of "text" is half of a surrogate pair'),
        (b'{"text": "a\xff"}\n', r"line 2: byte 26 is not valid UTF-8 \(.*\); convert the file"),
    ],
)
def test_a_json_line_that_is_no_document_is_refused_with_its_place(tmp_path, content, said):
    (tmp_path / "in.jsonl").write_bytes(lines("ok") + content)
    with pytest.raises(ValueError, match=said) as caught:
        list(local.documents(tmp_path / "in.jsonl"))
    assert str(tmp_path / "in.jsonl") in str(caught.value)


def test_a_line_without_end_is_refused_before_all_of_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "MAX_LINE_BYTES", 1000)
    (tmp_path / "in.jsonl").write_bytes(lines("a" * 2000))
    with pytest.raises(ValueError, match=r"line 1: longer than 1000 bytes"):
        list(local.documents(tmp_path / "in.jsonl"))


def test_a_text_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path):
    (tmp_path / "in.txt").write_bytes("\ufeffgrün".encode() + "grün".encode("latin-1"))
    with pytest.raises(ValueError, match=r"in\.txt: byte 10 is not valid UTF-8"):
        list(local.documents(tmp_path))


def test_a_file_with_an_unknown_suffix_is_refused_not_skipped(tmp_path):
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match=r"b\.pdf has an unknown suffix; prepare reads \.jsonl \.txt"):
        list(local.documents(tmp_path))
    with pytest.raises(ValueError, match="unknown suffix"):
        list(local.documents(tmp_path / "b.pdf"))


def test_a_missing_path_an_empty_folder_and_a_dangling_link_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is missing; set prepare\.path"):
        list(local.documents(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="holds no files"):
        list(local.documents(tmp_path))
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match=r"a\.txt is not a file"):
        list(local.documents(tmp_path))


# --- main -----------------------------------------------------------------------------------------------------------


def test_the_same_documents_give_the_same_bytes(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(*(sentence(n) for n in range(100))))
    written = []
    for name in ("a", "b"):
        run(tmp_path / name, tmp_path / "in.jsonl")
        written.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()])
    assert len(written[0]) == 7
    assert written[0] == written[1]


def test_reading_stops_at_max_bytes_and_says_so(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_bytes(lines(*(f"{n:010}" for n in range(1000))))
    facts = run(tmp_path, tmp_path / "in.jsonl", replace(LOCAL, max_bytes=995))
    assert sum(facts["bytes"].values()) == 990
    said = capsys.readouterr().err
    there = (tmp_path / "in.jsonl").stat().st_size
    assert f"prepare.max_bytes = 995 leaves text out: of {there:,} bytes in the files" in said and f"({990 / there:.1%})" in said


def test_files_that_are_compressed_have_no_share_of_text_that_is_used(tmp_path, capsys):
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(lines(*(f"{n:010}" for n in range(1000)))))
    run(tmp_path, tmp_path / "in.jsonl.gz", replace(LOCAL, max_bytes=995))
    said = capsys.readouterr().err
    assert "bytes in the compressed files, 990 bytes of text are used" in said and "%" not in said.split("WARNING")[1]


def test_a_fraction_leaves_documents_out_from_the_whole_text_and_says_so(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_bytes(lines(*(f"{n:010}" for n in range(1000))))
    run(tmp_path, tmp_path / "in.jsonl", replace(LOCAL, fraction=0.1))
    assert "10.0% of the documents are drawn by their hashes, and the others are left out" in capsys.readouterr().out
    drawn = sorted(int(text) for name in split.SPLITS for text in texts(tmp_path / name / "documents.jsonl"))
    assert 60 < len(drawn) < 140 and drawn[0] < 100 and drawn[-1] > 900
    for wrong in ({"split": "first"}, {"source": "builtin"}):
        with pytest.raises(ValueError, match=r"prepare\.fraction is 0\.1, and only documents that are split by their own hashes"):
            prepare.check(replace(LOCAL, fraction=0.1, **wrong))


def test_a_corpus_of_exactly_max_bytes_is_not_cut(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_bytes(lines(*(f"{n:010}" for n in range(100))))
    facts = run(tmp_path, tmp_path / "in.jsonl", replace(LOCAL, max_bytes=1000))
    assert sum(facts["bytes"].values()) == 1000
    said = capsys.readouterr().out
    assert "stopped" not in said
    assert said.count(" documents ") == 3 and said.count(" bytes") == 3


def test_empty_documents_are_skipped_and_counted(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_bytes(lines(*("" if n % 10 == 0 else f"text {n}" for n in range(100))))
    facts = run(tmp_path, tmp_path / "in.jsonl")
    assert sum(facts["documents"].values()) == 90
    assert "skipped 10 empty documents" in capsys.readouterr().out


def test_local_metrics_name_no_packages_and_no_clock(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(*(sentence(n) for n in range(100))))
    assert list(run(tmp_path, tmp_path / "in.jsonl")) == ["source", "val_is_the_fields", "documents", "bytes", "sha256"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"the corpus is empty \(0 empty documents, no other\)"),
        (lines("", ""), r"the corpus is empty \(2 empty documents, no other\)"),
        (lines("x" * 100), "prepare.max_bytes is 50 and the first document is larger; raise it"),
    ],
)
def test_an_empty_corpus_is_refused(tmp_path, content, said):
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        run(tmp_path, tmp_path / "in.jsonl", replace(LOCAL, max_bytes=50))


@pytest.mark.parametrize(
    ("val", "holdout", "name", "remedy"),
    [
        (1e-9, 0.5, "val", "raise prepare.val_fraction"),
        (0.5, 1e-9, "holdout", "raise prepare.holdout_fraction"),
        (0.5, 0.499999999, "train", "lower prepare.val_fraction or prepare.holdout_fraction"),
    ],
)
def test_an_empty_split_is_refused_with_its_name_and_nothing_is_written(tmp_path, val, holdout, name, remedy):
    (tmp_path / "in.jsonl").write_bytes(lines(*(sentence(n) for n in range(50))))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train").write_text("from an earlier run")
    with pytest.raises(ValueError, match=rf"the {name} split is empty: none of the 50 documents .*; {remedy}"):
        run(tmp_path / "out", tmp_path / "in.jsonl", replace(LOCAL, val_fraction=val, holdout_fraction=holdout))
    assert os.listdir(tmp_path / "out") == ["train"]
    assert (tmp_path / "out/train").read_text() == "from an earlier run"


@pytest.mark.parametrize(
    ("change", "said"), [({"val_fraction": 0.5, "holdout_fraction": 0.5}, "sum to 1.0, which leaves nothing to train on")]
)
def test_settings_that_no_corpus_can_meet_are_refused(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        run(tmp_path, tmp_path, replace(LOCAL, **change))


def test_the_signature_declares_the_paths_and_the_section():
    contract = stage.contract(prepare.main, tree={"prepare": {"path": "data/mine"}})
    assert contract.inputs == ("data/mine",)
    assert contract.outputs == tuple(f"artifacts/prepare/{name}" for name in ("train", "holdout", "val"))
    assert contract.metrics == ("artifacts/prepare/metrics.json",)
    assert contract.sections == ("prepare",)


def test_a_reader_closed_early_releases_the_file(tmp_path):
    path = tmp_path / "in.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(lines("one", "two")))
    handle = local._open(path)
    assert isinstance(handle, io.BufferedReader)
    handle.close()
    assert handle.raw.file.closed
