"""The built-in corpus: what is prose, and which documents of the installed packages it becomes."""

import contextlib
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stages.lib.text import accounting
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


def distribution(site: Path, name: str, files: dict[str, str | bytes], version: str = "1.0") -> None:
    """Install a made-up distribution into the folder `site`."""
    info = f"{name}-{version}.dist-info"
    readme = sentence(int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10**9)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n{readme}\n"
    everything = {**files, f"{info}/METADATA": metadata}
    record = "".join(f"{file},,\n" for file in [*everything, f"{info}/RECORD", "../../bin/tool.py"])
    for file, content in {**everything, f"{info}/RECORD": record}.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def wanted(site: Path, **sides: str) -> list[builtin.Listed]:
    """A list of what is installed in `site`, with the sha256 of its prose: name=split."""
    lines = [builtin.Listed(side, name, "1.0", "") for name, side in sides.items()]
    sources = builtin.sources(lines, search=[str(site)])
    found = builtin.digests(sources, list(builtin.extract(sources, workers=1)))
    return [line._replace(sha256=found[line.name]) for line in lines]


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
    )
    distribution(tmp_path, "alpha", {"alpha.py": module(*many(800), SENTENCE, SENTENCE)})
    distribution(tmp_path, "gamma", {"gamma.py": module(*many(900))})
    return tmp_path


def test_only_what_is_listed_is_read(site):
    lines = wanted(site, beta="train", alpha="val")
    assert {document.unit for document in builtin.read(lines, search=[str(site)])} == {"alpha", "beta"}
    assert builtin.read(lines, search=[str(site)]) == builtin.read(lines[::-1], search=[str(site)])


@pytest.mark.parametrize(
    "version, said",
    [("1.1", r"made of alpha 1\.1, and 1\.0 of it is installed; run pip install alpha==1\.1 .* prepare.source local"), ("1.0", "")],
)
def test_another_version_is_an_error_that_says_what_to_do(site, version, said):
    line = builtin.Listed("val", "alpha", version, wanted(site, alpha="val")[0].sha256)
    with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
        builtin.read([line], search=[str(site)])


def test_a_distribution_that_is_not_installed_is_an_error_that_says_what_to_do(site):
    with pytest.raises(ValueError, match=r"omega 1\.0, and it is not installed; run pip install omega==1\.0 .* prepare.source local"):
        builtin.sources([builtin.Listed("val", "omega", "1.0", "")], search=[str(site)])


def test_a_local_build_of_the_same_release_with_the_same_files_is_the_same_text(site, tmp_path_factory):
    distribution(other := tmp_path_factory.mktemp("other"), "alpha", {"alpha.py": (site / "alpha.py").read_bytes()}, version="1.0+cpu")
    lines = wanted(site, alpha="val")
    assert builtin.read(lines, search=[str(other)]) == builtin.read(lines, search=[str(site)])


@pytest.mark.parametrize("line, is_prose", [(f'"""{OTHER}"""', True), ("x = 1", False)])
def test_a_changed_file_is_refused_if_it_changes_the_text(site, line, is_prose):
    lines = wanted(site, alpha="val")
    with open(site / "alpha.py", "a") as handle:
        handle.write(f"class Added:\n    {line}\n")
    refused = pytest.raises(ValueError, match=r"alpha 1\.0 .* another text .* --force-reinstall --no-deps alpha==1\.0, or use")
    with refused if is_prose else contextlib.nullcontext():
        builtin.read(lines, search=[str(site)])


def test_tests_licences_vendored_copies_and_data_are_not_sources(site):
    sources = builtin.sources(wanted(site, beta="train", alpha="val"), search=[str(site)])
    assert [(source.distribution, source.name) for source in sources] == [
        ("alpha", "METADATA"),
        ("alpha", "alpha.py"),
        ("beta", "METADATA"),
        ("beta", "beta/__init__.py"),
        ("beta", "beta/broken.py"),
        ("beta", "beta/broken.txt"),
        ("beta", "beta/guide.rst"),
        ("beta", "beta/short.py"),
    ]


def test_a_document_is_the_prose_of_one_file_and_unreadable_or_short_files_give_none(site):
    sources = builtin.sources(wanted(site, beta="train", alpha="val"), search=[str(site)])
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
        "s = builtin.sources([builtin.Listed('val', name, '1.0', '') for name in ('beta', 'alpha')], search=[sys.argv[1]]);"
        "found = list(builtin.extract(s, workers=1));"
        "print(hashlib.sha256(repr((builtin.documents(s, found), builtin.digests(s, found))).encode()).hexdigest())"
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
    sources = builtin.sources(wanted(site, beta="train", alpha="val"), search=[str(site)])
    assert list(builtin.extract(sources, workers=2)) == list(builtin.extract(sources, workers=1))


def test_files_that_are_too_large_to_be_written_by_hand_are_not_parsed(tmp_path):
    path = tmp_path / "generated.py"
    path.write_text(module(*many(0)) + "#" * builtin.MAX_FILE_BYTES)
    assert list(builtin.extract([builtin.Source("generated", "generated.py", path)], workers=1)) == [[]]


def test_no_paragraph_of_val_or_holdout_is_in_train(tmp_path, monkeypatch):
    for n in range(40):
        shared = [sentence(1000 + (n * 7 + k) % 50) for k in range(6)]
        distribution(tmp_path, f"package{n:02}", {f"package{n:02}/a.py": module(*shared, *many(10 * n))})
    lines = wanted(tmp_path, **{f"package{n:02}": ("train", "holdout", "val", "train")[n % 4] for n in range(40)})
    real = builtin.read
    monkeypatch.setattr(builtin, "listed", lambda: lines)
    monkeypatch.setattr(builtin, "read", lambda **more: real(search=[str(tmp_path)], **more))
    facts = run(tmp_path / "out", tmp_path, replace(LOCAL, source="builtin"))
    sides = {name: texts(tmp_path / "out" / name / "documents.jsonl") for name in split.SPLITS}
    paragraphs = {name: {part for text in sides[name] for part in text.split("\n\n")} for name in split.SPLITS}
    assert all(paragraphs.values())
    assert not paragraphs["val"] & paragraphs["train"]
    assert not paragraphs["val"] & paragraphs["holdout"]
    assert not paragraphs["holdout"] & paragraphs["train"]
    assert sum(facts["documents"].values()) == 40
    assert facts["documents"] == {"train": 20, "holdout": 10, "val": 10} and facts["packages"]["package00"] == "1.0"


# --- the list -------------------------------------------------------------------------------------------------------

# What an artifact may import (stages/runtime/), with the libraries of all codecs.
ARTIFACT = ("torch", "numpy", "sentencepiece", "brotli", "zstandard", "constriction", "zipnn", "safetensors")


def requirements(names: Iterable[str]) -> set[str]:
    """The distributions of these names and all that they require here, by their canonical names; of absent ones, the name alone."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                required = map(Requirement, importlib.metadata.requires(name) or ())
                waiting += [canonicalize_name(one.name) for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def split_of() -> dict[str, str]:
    return {line.name: line.split for line in builtin.listed()}


def test_the_list_has_the_versions_of_the_constraints():
    lines = (Path(prepare.__file__).parents[2] / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if not line.startswith("#"))}
    assert {line.name: line.version for line in builtin.listed()}.items() <= pinned.items()
    assert {line.split for line in builtin.listed()} == set(split.SPLITS) and len(split_of()) == len(builtin.listed())


def test_the_list_needs_nothing_that_the_pipeline_does_not_require():
    project = tomllib.loads((Path(prepare.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert split_of().keys() <= requirements(Requirement(line).name for line in project["dependencies"])


def test_what_an_artifact_imports_is_train_or_left_out():
    sides = split_of()
    assert {sides.get(name, "train") for name in requirements(ARTIFACT)} == {"train"} and sides["torch"] == sides["numpy"] == "train"


@pytest.mark.slow
def test_what_an_artifacts_libraries_could_import_is_train_or_left_out():
    """Libraries import others where these are installed, without requiring them. Every line that looks like an import counts."""
    named, owners = set(), importlib.metadata.packages_distributions()
    for name in requirements(ARTIFACT):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for file in importlib.metadata.files(name) or ():
                if file.suffix == ".py" and file.locate().is_file():
                    named |= set(re.findall(rb"^[ \t]*(?:import|from)[ \t]+(\w+)", file.locate().read_bytes(), re.MULTILINE))
    imported = requirements(owner for top in named for owner in owners.get(top.decode(), ()))
    sides = split_of()
    assert {"tqdm", "pydot", "aiohttp", "propcache"} <= imported
    assert {name: sides[name] for name in imported if sides.get(name, "train") != "train"} == {}


def test_the_installed_files_of_val_hold_the_text_that_the_list_names():
    lines = [line for line in builtin.listed() if line.split == "val"]
    assert {document.unit for document in builtin.read(lines)} == {line.name for line in lines}
    with pytest.raises(ValueError, match="another text"):
        builtin.read([lines[0]._replace(sha256=lines[1].sha256)])


@pytest.mark.slow
def test_the_splits_are_the_ones_that_the_repository_names_and_no_distribution_is_more_than_a_third_of_one():
    """Whichever Python this is, with whichever builds: the sha256 of the bytes that `prepare` writes."""
    found, rule = builtin.read(), builtin.rule()
    assert builtin.sha256_of_splits(found, rule) == accounting.BUILTIN_SHA256
    assert sum(len(text.encode()) for _, text in found) == accounting.BUILTIN_BYTES
    sizes = {name: Counter() for name in split.SPLITS}
    for unit, text in found:
        sizes[rule.side(unit)][unit] += len(text.encode())
    assert all(max(size.values()) <= size.total() / 3 and len(size) >= 8 for size in sizes.values())
    assert 350_000 < sizes["val"].total() < 390_000 and 530_000 < sizes["holdout"].total() < 600_000
