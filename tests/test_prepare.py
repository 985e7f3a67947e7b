import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib import stage
from stages.lib.data import builtin, local, prose, split
from stages.prepare import __main__ as prepare

SENTENCE = "The quick brown fox jumps over the lazy dog and then it goes home to sleep."
OTHER = "A compressor is only as good as the model that it has of the text which it reads."
HUB = {"contents": "documents", "repository": "someone/golf", "revision": "main", "root": "datasets", "variant": "sp1024",
       "train_shards": 1, "files": ["*.parquet"]}
LOCAL = prepare.Settings("local", "data", 10_000_000, "hash", 0, 0.3, 0.3, 50_000, 2_000, HUB)

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def sentence(n: int) -> str:
    """A different sentence of prose for every n."""
    words = ["of the " + "abcdefghij"[int(digit)] * 4 for digit in str(n)]
    return f"This is the story {' and '.join(words)}, and it is told by the people who were there."


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def run(folder: Path, documents: Path, chosen: prepare.Settings = LOCAL) -> dict:
    paths = {name: folder / name for name in split.SPLITS}
    prepare.main(chosen, documents=documents, metrics=folder / "metrics.json", scratch=folder.with_name(folder.name + ".scratch"), **paths)
    return stage.read_json(folder / "metrics.json")


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_bytes().decode().split("\n") if line]


# --- prose ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    SENTENCE,
    "If `data` is empty, a StatisticsError will be raised by the function.",
    "Return the number of bytes that were written (or None, if there is no room).",
])
def test_english_sentences_are_prose(text):
    assert prose.is_prose(text)


@pytest.mark.parametrize("text", [
    "Too short to be kept.",
    ">>> the value of the thing is what it is in the end.",
    "x = foo(bar, baz)[0] + self.count * 2 - len(items) ** 3 if y else z.",
    "MAXIMUM MINIMUM AVERAGE THE OF AND MEDIAN DEVIATION VARIANCE SKEW.",
    "this line has all the words of a sentence but it does not end like one",
    "Der schnelle braune Fuchs springt jeden Morgen bei Sonnenaufgang über den faulen Hund.",
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu.",
    "the name | the kind of it | the size of it | is in the table of the three.",
    "the half of a pair \ud800 is not a text that can be written as it is.",
])
def test_code_tables_headings_and_other_languages_are_not_prose(text):
    assert not prose.is_prose(text)


def test_docstrings_and_texts_at_module_and_class_level_are_read_but_not_strings_inside_functions():
    source = f'''
"""{sentence(0)}"""
add_docstr(abs, r"""
abs(x) -> int

{sentence(1)}
""")
class A:
    """{sentence(2)}"""
    shared = {{"x": """
        {sentence(3)}
        """}}
    async def f(self):
        """{sentence(4)}"""
        message = """
        {sentence(8)}
        """
        def g():
            """{sentence(5)}"""
if True:
    def h():
        """{sentence(6)}"""
raise SystemExit("this code must never run, it is only to be read")
'''
    assert list(prose.of_python(source.encode())) == [sentence(n) for n in range(7)]


def test_python_source_declares_its_own_encoding():
    source = f'# -*- coding: latin-1 -*-\n"""{SENTENCE} Voilà, it is read in the encoding that it declares."""\n'
    (found,) = prose.of_python(source.encode("latin-1"))
    assert "Voilà" in found


@pytest.mark.parametrize("source", [
    b'"""unclosed', b"# coding: no-such-encoding\n", b'"""\xff\xfe"""', b"a\x00b", b"(" * 5000,
])
def test_source_that_cannot_be_parsed_has_no_prose(source):
    assert list(prose.of_python(source)) == []


def test_invalid_escapes_in_other_peoples_strings_raise_no_warning():
    assert list(prose.of_python(f'"""{SENTENCE}"""\nx = "\\d"\n'.encode())) == [SENTENCE]


def test_items_of_a_list_are_paragraphs_of_their_own_and_a_heading_is_none():
    text = f"""Parameters
----------
x : int
    {SENTENCE[:40]}
    {SENTENCE[40:].strip()}
y (str): {OTHER[:50]}
    {OTHER[50:].strip()}
- {sentence(1)}
:param z: {sentence(2)}
.. note:: {sentence(3)}"""
    kept = list(prose.paragraphs(text))
    assert kept[0] == f"{SENTENCE[:40].strip()} {SENTENCE[40:].strip()}"
    assert kept[-3:] == [sentence(1), sentence(2), sentence(3)]


def test_a_field_that_goes_on_in_the_next_line_stays_in_one_piece():
    text = f"Args:\n    y (str): {OTHER[:23]}\n        {OTHER[24:]}"
    assert list(prose.paragraphs(text)) == [OTHER]


def test_markup_of_names_is_dropped():
    text = "Use :meth:`~list.sort` or ``sorted`` of :ref:`the guide <guide>` if you want them in order [1]_."
    assert list(prose.paragraphs(text)) == ["Use `list.sort` or `sorted` of `the guide` if you want them in order."]


def test_fenced_code_and_the_header_of_metadata_are_no_documentation():
    text = f"Summary: {OTHER}\n\n# Title\n\n{SENTENCE}\n\n```\n\n{OTHER}\n\n```\n"
    assert list(prose.of_documentation(text.replace("\n", "\r\n"), has_header=True)) == [SENTENCE]


# --- the built-in corpus --------------------------------------------------------------------------------------------


def distribution(site: Path, name: str, files: dict[str, str | bytes], requires: tuple[str, ...] = ()) -> None:
    """Install a made-up distribution into the folder `site`."""
    info = f"{name}-1.0.dist-info"
    header = "".join(f"Requires-Dist: {line}\n" for line in requires)
    readme = sentence(int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10**9)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{header}\n{readme}\n"
    everything = {**files, f"{info}/METADATA": metadata}
    record = "".join(f"{file},,\n" for file in [*everything, f"{info}/RECORD", "../../bin/tool.py"])
    for file, content in {**everything, f"{info}/RECORD": record}.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def module(*paragraphs: str) -> str:
    text = "\n\n".join(paragraphs)
    return f'"""{text}"""\n'


def many(start: int) -> tuple[str, ...]:
    return tuple(sentence(start + n) for n in range(3))


@pytest.fixture
def site(tmp_path):
    distribution(tmp_path, "beta", {
        "beta/__init__.py": module(*many(100), SENTENCE),
        "beta/tests/test_it.py": module(*many(200)),
        "beta/_vendor/copied.py": module(*many(300)),
        "beta/LICENSE.txt": "\n\n".join(many(400)),
        "beta/guide.rst": "\n\n".join(many(500)),
        "beta/table.csv": "\n\n".join(many(600)),
        "beta/short.py": module(sentence(700)),
        "beta/broken.py": b'"""\xff"""',
        "beta/broken.txt": b"\xff" * 500,
    }, ("alpha>=1; python_version >= '3'", "gamma; extra == 'all'", "delta; python_version < '3'", "absent"))
    distribution(tmp_path, "alpha", {"alpha.py": module(*many(800), SENTENCE, SENTENCE)}, ("Beta",))
    distribution(tmp_path, "gamma", {"gamma.py": module(*many(900))})
    return tmp_path


def test_requirements_are_followed_where_their_markers_hold_and_extras_are_not(site):
    _, versions, absent = builtin.sources_of_distributions(["beta"], search=[str(site)])
    assert versions == {"alpha": "1.0", "beta": "1.0"}
    assert absent == ["absent"]


def test_a_distribution_that_is_asked_for_and_not_installed_is_an_error_that_says_what_to_do(site):
    with pytest.raises(ValueError, match=r"omega is not installed .* pip install omega"):
        builtin.sources_of_distributions(["beta", "omega"], search=[str(site)])


def test_tests_licences_vendored_copies_and_data_are_not_sources(site):
    sources, _, _ = builtin.sources_of_distributions(["beta"], search=[str(site)])
    assert [(source.package, source.name) for source in sources] == [
        ("alpha", "alpha-1.0.dist-info/METADATA"),
        ("alpha", "alpha.py"),
        ("beta", "beta-1.0.dist-info/METADATA"),
        ("beta", "beta/__init__.py"),
        ("beta", "beta/broken.py"),
        ("beta", "beta/broken.txt"),
        ("beta", "beta/guide.rst"),
        ("beta", "beta/short.py"),
    ]


def test_a_document_is_the_prose_of_one_file_and_unreadable_or_short_files_give_none(site):
    sources, _, _ = builtin.sources_of_distributions(["beta"], search=[str(site)])
    (site / "beta/guide.rst").unlink()
    found = builtin.documents(sources, builtin.extract(sources, workers=1))
    assert sorted(found) == [("alpha", "\n\n".join([*many(800), SENTENCE])), ("beta", "\n\n".join(many(100)))]


def test_a_repeated_paragraph_stays_where_it_is_first_by_name():
    sources = [builtin.Source(package, f"{package}.py", Path(package)) for package in ("a", "b", "c")]
    paragraphs = [[*many(0), SENTENCE, SENTENCE], [SENTENCE, *many(10)], [SENTENCE]]
    found = builtin.documents(sources, paragraphs)
    assert sorted(found) == [("a", "\n\n".join([*many(0), SENTENCE])), ("b", "\n\n".join(many(10)))]


def test_a_paragraph_of_a_document_that_is_too_short_is_kept_in_the_next_one():
    sources = [builtin.Source(package, f"{package}.py", Path(package)) for package in ("a", "b")]
    (kept,) = builtin.documents(sources, [[SENTENCE], [SENTENCE, *many(10)]])
    assert kept == ("b", "\n\n".join([SENTENCE, *many(10)]))


def test_documents_do_not_depend_on_where_the_packages_lie_or_on_the_hash_seed(site, tmp_path_factory):
    program = (
        "import sys, hashlib; from stages.lib.data import builtin;"
        "s, v, a = builtin.sources_of_distributions(['beta'], search=[sys.argv[1]]);"
        "found = builtin.documents(s, builtin.extract(s, workers=1));"
        "print(hashlib.sha256(repr((found, v, a)).encode()).hexdigest())"
    )
    said = []
    for seed, name in (("1", "zzz"), ("2", "aaa")):
        site = site.rename(tmp_path_factory.mktemp("elsewhere") / name)
        environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C"}
        command = [sys.executable, "-c", program, site]
        said.append(subprocess.check_output(command, env=environment, cwd=Path(prepare.__file__).parents[2]))
    assert said[0] == said[1]


def test_worker_processes_read_the_same_as_one_process(site, monkeypatch):
    monkeypatch.setattr(builtin, "MIN_FILES_PER_WORKER", 1)
    sources, _, _ = builtin.sources_of_distributions(["beta"], search=[str(site)])
    assert list(builtin.extract(sources, workers=2)) == list(builtin.extract(sources, workers=1))


def test_files_that_are_too_large_to_be_written_by_hand_are_not_parsed(tmp_path):
    path = tmp_path / "generated.py"
    path.write_text(module(*many(0)) + "#" * builtin.MAX_FILE_BYTES)
    assert list(builtin.extract([builtin.Source("generated", "generated.py", path)], workers=1)) == [[]]


def test_the_standard_library_gives_prose_by_top_level_module():
    sources = builtin.sources_of_folder(Path(sysconfig.get_path("stdlib")))
    assert not [source for source in sources if "site-packages" in source.name or "/test/" in source.name]
    chosen = [source for source in sources if source.package in ("logging", "textwrap")]
    found = builtin.documents(chosen, builtin.extract(chosen, workers=1))
    assert {document.unit for document in found} == {"logging", "textwrap"}
    assert any("Wrap a single paragraph of text" in document.text for document in found)


def test_no_paragraph_of_val_or_holdout_is_in_train(tmp_path, monkeypatch):
    for n in range(40):
        shared = [sentence(1000 + (n * 7 + k) % 50) for k in range(6)]
        distribution(tmp_path, f"package{n:02}", {f"package{n:02}/a.py": module(*shared, *many(10 * n))})
    roots = [f"package{n:02}" for n in range(40)]
    monkeypatch.setattr(builtin, "DISTRIBUTIONS", roots)
    real = builtin.sources_of_distributions
    monkeypatch.setattr(builtin, "sources_of_distributions", lambda: real(roots, search=[str(tmp_path)]))
    monkeypatch.setattr(builtin, "sources_of_folder", lambda folder: [])
    facts = run(tmp_path / "out", tmp_path, replace(LOCAL, source="builtin"))
    sides = {name: texts(tmp_path / "out" / name / "documents.jsonl") for name in split.SPLITS}
    paragraphs = {name: {part for text in sides[name] for part in text.split("\n\n")} for name in split.SPLITS}
    assert all(paragraphs.values())
    assert not paragraphs["val"] & paragraphs["train"]
    assert not paragraphs["val"] & paragraphs["holdout"]
    assert not paragraphs["holdout"] & paragraphs["train"]
    assert sum(facts["documents"].values()) == 40
    assert facts["packages"]["package00"] == "1.0" and "python" in facts["packages"]


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


@pytest.mark.parametrize(("content", "said"), [
    (b"{not json}\n", r"line 2: not valid JSON \(.*\); each line must be an object"),
    (b"[" * 100_000 + b"\n", "line 2: not valid JSON"),
    (b"[1]\n", "line 2: a list, not an object"),
    (b'{"texts": "a", "id": 1}\n', r'line 2: the object lacks "text" \(it has id, texts\)'),
    (b'{"text": 5}\n', 'line 2: "text" is a int, not a string'),
    (b'{"text": null}\n', 'line 2: "text" is a NoneType, not a string'),
    (b'{"text": "a\\ud800b"}\n', 'line 2: character 1 of "text" is half of a surrogate pair'),
    (b'{"text": "a\xff"}\n', r"line 2: byte 26 is not valid UTF-8 \(.*\); convert the file"),
])
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
    assert "stopped at prepare.max_bytes = 995" in capsys.readouterr().out


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


@pytest.mark.parametrize(("content", "said"), [
    (b"", r"the corpus is empty \(0 empty documents, no other\)"),
    (lines("", ""), r"the corpus is empty \(2 empty documents, no other\)"),
    (lines("x" * 100), "prepare.max_bytes is 50 and the first document is larger; raise it"),
])
def test_an_empty_corpus_is_refused(tmp_path, content, said):
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        run(tmp_path, tmp_path / "in.jsonl", replace(LOCAL, max_bytes=50))


@pytest.mark.parametrize(("val", "holdout", "name", "remedy"), [
    (1e-9, 0.5, "val", "raise prepare.val_fraction"),
    (0.5, 1e-9, "holdout", "raise prepare.holdout_fraction"),
    (0.5, 0.499999999, "train", "lower prepare.val_fraction or prepare.holdout_fraction"),
])
def test_an_empty_split_is_refused_with_its_name_and_nothing_is_written(tmp_path, val, holdout, name, remedy):
    (tmp_path / "in.jsonl").write_bytes(lines(*(sentence(n) for n in range(50))))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train").write_text("from an earlier run")
    with pytest.raises(ValueError, match=rf"the {name} split is empty: none of the 50 documents .*; {remedy}"):
        run(tmp_path / "out", tmp_path / "in.jsonl", replace(LOCAL, val_fraction=val, holdout_fraction=holdout))
    assert os.listdir(tmp_path / "out") == ["train"]
    assert (tmp_path / "out/train").read_text() == "from an earlier run"


@pytest.mark.parametrize(("change", "said"), [
    ({"max_bytes": 0}, "prepare.max_bytes is 0"),
    ({"val_fraction": 0.0}, "prepare.val_fraction is 0.0; it must lie between 0 and 1"),
    ({"holdout_fraction": 1.0}, "prepare.holdout_fraction is 1.0"),
    ({"val_fraction": float("nan")}, "prepare.val_fraction is nan"),
    ({"val_fraction": 0.5, "holdout_fraction": 0.5}, "sum to 1.0, which leaves nothing to train on"),
])
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
