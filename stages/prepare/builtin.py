"""The built-in corpus: English documentation that is on every machine with the dependencies. Nothing is downloaded.

distributions.csv lists the installed distributions whose prose (prose.py) it is, each with its version, its split, and the sha256 of that
prose. Everyone therefore has the same bytes, or an error: no other version and no changed file is read. Nothing is imported. One document
is the prose of one file.

* An artifact can read what it can import. Therefore whatever an artifact imports, requires or names in an import is train, as far as it
  is listed (torch, numpy, sentencepiece, the libraries of the codecs, and what these can use). The standard library is not listed: it
  is importable too, and it differs between patch releases of Python.
* All other distributions were dealt to the splits once, before anything was trained on them, by a rule about sizes alone: the first seed
  of a hash for which val has 350 to 390 kB, holdout has 530 to 600 kB, both have at least 8 distributions, and none is more than a third
  of its split. Since then the list alone counts.
* A paragraph that occurs again, in the same file or in another, is dropped; the first one in the order of
  (distribution, file) is kept.
* Left out are tests (inputs and lists with hardly a sentence), licences (the same few texts with other names in them) and
  vendored copies of other packages (near-duplicates that the rule above would not catch).
* Documents come in the order of a hash of their names, so that a prefix is a fair sample of all documents.

    python -m stages.prepare.builtin            the sha256 of each split, and whether it is the known one (make test-text: other Pythons)
    python -m stages.prepare.builtin --write    the same after entering the installed versions and their sha256 in distributions.csv
"""

import argparse
import csv
import gc
import hashlib
import importlib.metadata
import json
import multiprocessing
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stages.lib.node import command, parallel
from stages.lib.text import accounting
from stages.prepare import prose, split
from stages.prepare.split import Document

LIST = Path(__file__).with_name("distributions.csv")
COLUMNS = ("split", "name", "version", "sha256")
DOCUMENTATION = (".rst", ".md", ".txt")
MIN_DOCUMENT_BYTES = 200  # one or two sentences say little about their file
MAX_FILE_BYTES = 1 << 20  # larger source files are generated tables, which take seconds to parse and hold no prose
MAX_WORKERS = 8  # all of it takes 20 seconds to parse on one core; more processes would only spend time on starting
MIN_FILES_PER_WORKER = 200  # starting a worker costs as much as parsing about this many files
# numpy has distutils in its wheels for Python 3.11 and in no other.
LEFT_OUT_FOLDERS = frozenset(
    ("test", "tests", "testing", "_vendor", "vendor", "vendored", "licenses", "LICENSES", "__pycache__", "distutils")
)
LEFT_OUT_FILES = re.compile(r"(licen[sc]e|copying|notice|authors|contributors)", re.IGNORECASE)


class Listed(NamedTuple):
    """One line of distributions.csv. `sha256` is that of its prose (`digest`)."""

    split: str
    name: str
    version: str
    sha256: str


class Source(NamedTuple):
    """One file: the distribution that it belongs to, its path relative to site-packages (with `/`), and its location."""

    distribution: str
    name: str
    path: Path


def listed(path: Path = LIST) -> list[Listed]:
    """The lines of distributions.csv, in order."""
    with open(path, newline="", encoding="utf-8") as handle:
        return [Listed(**line) for line in csv.DictReader(handle)]


def sources(wanted: Iterable[Listed], *, search: list[str] | None = None) -> list[Source]:
    """The files of the distributions, sorted by distribution and name, never by location.

    `search` is a list of folders that hold distributions (default: sys.path). ValueError if one is not installed with its list of files, or
    in another version. A local version (2.13.0+cpu) is the same release from another place, and the sha256 decides about its files.
    """
    found = []
    for line in wanted:
        distribution = _installed(line.name, search)
        version = distribution.version.partition("+")[0] if distribution else None
        if version != line.version:
            here = f"{version} of it is" if version else "it is not"
            raise ValueError(
                f"the built-in text is made of {line.name} {line.version}, and {here} installed; "
                f"run pip install {line.name}=={line.version} (constraints.txt has all of the versions), or use your own text: "
                "prepare.source local"
            )
        found += _files_of(line.name, distribution)
    return sorted(found)


def _installed(name: str, search: list[str] | None) -> importlib.metadata.Distribution | None:
    """The first distribution of that name which has its list of files; an interrupted pip can leave a folder without one."""
    places = {} if search is None else {"path": search}
    return next((one for one in importlib.metadata.distributions(name=name, **places) if one.metadata["Name"] and one.files), None)


def _files_of(name: str, distribution: importlib.metadata.Distribution) -> Iterator[Source]:
    for file in distribution.files:
        inside = PurePosixPath(file)
        if ".." in inside.parts or not _is_wanted(inside):
            continue
        # The folder of METADATA has the version in its name, with what a local build adds to it.
        yield Source(name, inside.name if inside.name == "METADATA" else str(inside), Path(distribution.locate_file(file)))


def _is_wanted(name: PurePosixPath) -> bool:
    if LEFT_OUT_FOLDERS.intersection(name.parts[:-1]):
        return False
    if name.suffix in DOCUMENTATION:
        return not LEFT_OUT_FILES.match(name.name) and not name.parts[0].endswith(".dist-info")
    return name.suffix == ".py" or (name.name == "METADATA" and len(name.parts) == 2)


def extract(sources: list[Source], *, workers: int) -> Iterator[list[str]]:
    """The prose paragraphs of each source, in order. Parsing takes nearly all of the time and is spread over processes."""
    workers = min(workers, len(sources) // MIN_FILES_PER_WORKER)
    if workers < 2:
        yield from map(_paragraphs, sources)
        return
    # spawn: a forked child inherits the locks of a progress bar's thread. Parsing takes a fifth less without the collector.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=gc.disable) as pool:
        yield from pool.map(_paragraphs, sources, chunksize=32)


def _paragraphs(source: Source) -> list[str]:
    try:
        if source.path.stat().st_size > MAX_FILE_BYTES:
            return []
        content = source.path.read_bytes()
        if source.path.suffix == ".py":
            # Only a triple-quoted string contains a paragraph; parsing the others too would waste a tenth of the time.
            return list(prose.of_python(content)) if b'"""' in content or b"'''" in content else []
        return list(prose.of_documentation(content.decode("utf-8"), has_header=source.path.name == "METADATA"))
    except (OSError, UnicodeDecodeError):
        return []


def digest(sources: Iterable[Source], paragraphs: Iterable[list[str]]) -> str:
    """sha256 of the prose of one distribution, by file and before repeated paragraphs are dropped."""
    content = [[source.name, found] for source, found in zip(sources, paragraphs, strict=True) if found]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def digests(sources: list[Source], paragraphs: list[list[str]]) -> dict[str, str]:
    """`digest` of each distribution."""
    by_name: dict[str, list[int]] = {}
    for i, source in enumerate(sources):
        by_name.setdefault(source.distribution, []).append(i)
    return {name: digest([sources[i] for i in places], [paragraphs[i] for i in places]) for name, places in by_name.items()}


def check(wanted: Iterable[Listed], found: dict[str, str]) -> None:
    """ValueError for the first distribution whose prose has another sha256 than its line."""
    for line in wanted:
        if found.get(line.name) != line.sha256:
            raise ValueError(
                f"the files of {line.name} {line.version} that are installed here hold another text than the one that the built-in text is "
                f"made of (sha256 {str(found.get(line.name))[:12]}, not {line.sha256[:12]}); run pip install --force-reinstall --no-deps "
                f"{line.name}=={line.version}, or use your own text: prepare.source local"
            )


def read(wanted: list[Listed] | None = None, *, search: list[str] | None = None, progress=iter) -> list[Document]:
    """The documents of `wanted` (default: of distributions.csv), shuffled. `unit` is the distribution. ValueError as in `check`."""
    wanted = listed() if wanted is None else wanted
    files = sources(wanted, search=search)
    paragraphs = list(progress(extract(files, workers=min(parallel.workers(), MAX_WORKERS))))
    check(wanted, digests(files, paragraphs))
    return documents(files, paragraphs)


def rule(wanted: Iterable[Listed] | None = None) -> split.Given:
    """The split of each distribution."""
    return split.Given({line.name: line.split for line in (listed() if wanted is None else wanted)})


def documents(sources: list[Source], paragraphs: Iterable[list[str]]) -> list[Document]:
    """One document per source that has enough prose left after repeated paragraphs are dropped, shuffled by name."""
    seen: set[str] = set()
    found = {}
    for source, all_of_it in zip(sources, paragraphs, strict=True):
        kept = [paragraph for paragraph in dict.fromkeys(all_of_it) if paragraph not in seen]
        text = "\n\n".join(kept)
        if len(text.encode()) >= MIN_DOCUMENT_BYTES:
            seen.update(kept)
            name = hashlib.sha256(f"{source.distribution}:{source.name}".encode()).digest()
            found.setdefault(name, Document(source.distribution, text))
    return [found[name] for name in sorted(found)]


def write(path: Path = LIST) -> None:
    """Enter the installed versions and their sha256 in the list at `path`."""
    here = {line.name: _installed(line.name, None) for line in listed(path)}
    wanted = [line._replace(version=here[line.name].version.partition("+")[0]) if here[line.name] else line for line in listed(path)]
    files = sources(wanted)
    found = digests(files, list(extract(files, workers=min(parallel.workers(), MAX_WORKERS))))
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows([COLUMNS, *(line._replace(sha256=found[line.name]) for line in wanted)])


def sha256_of_splits(found: list[Document], by: split.Given) -> dict[str, str]:
    """The sha256 of documents.jsonl of each split without a limit on the bytes."""
    block, hashes = split.block(found, by), {name: hashlib.sha256() for name in split.SPLITS}
    for line, side in zip(block.lines, block.sides, strict=True):
        hashes[side].update(line)
    return {name: found.hexdigest() for name, found in hashes.items()}


def main() -> int:
    """The command line; returns 1 if a split is another than stages/lib/text/accounting.py says."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.prepare.builtin", description="print the sha256 of each split of the built-in text"
    )
    parser.add_argument("--write", action="store_true", help=f"first enter the installed versions and their sha256 in {LIST.name}")
    if parser.parse_args().write:
        write()
    found = sha256_of_splits(read(), rule())
    for name, value in found.items():
        print(
            f"{name:8}{value}  {'as accounting.py says' if value == accounting.BUILTIN_SHA256[name] else 'another than accounting.py says'}"
        )
    return int(found != accounting.BUILTIN_SHA256)


if __name__ == "__main__":
    with command.sentences("prepare"):
        sys.exit(main())
