"""The built-in corpus: what is prose, and which documents of the installed packages it becomes."""

import hashlib
import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from stages.prepare import __main__ as prepare
from stages.prepare import builtin, prose, split
from tests.test_prepare import LOCAL, OTHER, SENTENCE, run, sentence, texts

# --- prose ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE,
        "If `data` is empty, a StatisticsError will be raised by the function.",
        "Return the number of bytes that were written (or None, if there is no room).",
    ],
)
def test_english_sentences_are_prose(text):
    assert prose.is_prose(text)


@pytest.mark.parametrize(
    "text",
    [
        "Too short to be kept.",
        ">>> the value of the thing is what it is in the end.",
        "x = foo(bar, baz)[0] + self.count * 2 - len(items) ** 3 if y else z.",
        "MAXIMUM MINIMUM AVERAGE THE OF AND MEDIAN DEVIATION VARIANCE SKEW.",
        "this line has all the words of a sentence but it does not end like one",
        "Der schnelle braune Fuchs springt jeden Morgen bei Sonnenaufgang über den faulen Hund.",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu.",
        "the name | the kind of it | the size of it | is in the table of the three.",
        "the half of a pair \ud800 is not a text that can be written as it is.",
    ],
)
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


@pytest.mark.parametrize("source", [b'"""unclosed', b"# coding: no-such-encoding\n", b'"""\xff\xfe"""', b"a\x00b", b"(" * 5000])
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
    distribution(
        tmp_path,
        "beta",
        {
            "beta/__init__.py": module(*many(100), SENTENCE),
            "beta/tests/test_it.py": module(*many(200)),
            "beta/_vendor/copied.py": module(*many(300)),
            "beta/LICENSE.txt": "\n\n".join(many(400)),
            "beta/guide.rst": "\n\n".join(many(500)),
            "beta/table.csv": "\n\n".join(many(600)),
            "beta/short.py": module(sentence(700)),
            "beta/broken.py": b'"""\xff"""',
            "beta/broken.txt": b"\xff" * 500,
        },
        ("alpha>=1; python_version >= '3'", "gamma; extra == 'all'", "delta; python_version < '3'", "absent"),
    )
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
        "import sys, hashlib; from stages.prepare import builtin;"
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
