"""The built-in corpus: English documentation that is on every machine with the dependencies. Nothing is downloaded.

Sources are the standard library and the installed files of `DISTRIBUTIONS` with everything that they require. Nothing is imported. One
document is the prose (prose.py) of one file. Its `unit` is the top-level package, so that a whole package goes to one split.

* The text of a file depends only on the installed versions: names are relative to their root, files come in
  sorted order, and files that cannot be read or parsed give no text.
* A paragraph that occurs again, in the same file or in another, is dropped; the first one in the order of
  (package, file) is kept. This order does not depend on the split: the paragraph may stay in val and be dropped from train,
  or the reverse, but no seed can put it into both, and another seed changes no document.
* Left out are tests (inputs and lists with hardly a sentence), licences (the same few texts with other names in them) and
  vendored copies of other packages (near-duplicates that the rule above would not catch).
* Documents come in the order of a hash of their names, so that a prefix is a fair sample of all documents.
"""

import hashlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stages.prepare import prose
from stages.prepare.split import Document

DISTRIBUTIONS = ("torch", "numpy", "pandas", "dvc")
DOCUMENTATION = (".rst", ".md", ".txt")
MIN_DOCUMENT_BYTES = 200  # one or two sentences say little about their file
MAX_FILE_BYTES = 1 << 20  # larger source files are generated tables, which take seconds to parse and hold no prose
MIN_FILES_PER_WORKER = 200  # starting a worker costs as much as parsing about this many files
LEFT_OUT_FOLDERS = frozenset(("test", "tests", "testing", "_vendor", "vendor", "vendored", "licenses", "LICENSES", "__pycache__"))
LEFT_OUT_FILES = re.compile(r"(licen[sc]e|copying|notice|authors|contributors)", re.IGNORECASE)
# site-packages belong to other distributions; newer Pythons lack distutils and lib2to3; ensurepip, idlelib
# and lib-dynload contain bundled wheels, a program with its change log, and binaries.
LEFT_OUT_OF_STDLIB = frozenset(("site-packages", "dist-packages", "distutils", "ensurepip", "idlelib", "lib2to3", "lib-dynload"))


class Source(NamedTuple):
    """One file: the top-level package that it belongs to, its path relative to its root (with `/`), and its location."""

    package: str
    name: str
    path: Path


def sources_of_folder(root: Path, *, leave_out: frozenset[str] = LEFT_OUT_OF_STDLIB) -> list[Source]:
    """The files of a folder of top-level modules and packages, such as the standard library, sorted by name."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in leave_out]
        for file in files:
            path = Path(folder, file)
            name = PurePosixPath(*path.relative_to(root).parts)
            if _is_wanted(name):
                found.append(Source(_top_level(name), str(name), path))
    return in_order(found)


def in_order(sources: Iterable[Source]) -> list[Source]:
    """Sorted by package and name, never by location. Of sources with equal names, the first one given stays first."""
    return sorted(sources, key=lambda source: (source.package, source.name))


def sources_of_distributions(
    roots: Iterable[str] = DISTRIBUTIONS, *, search: list[str] | None = None
) -> tuple[list[Source], dict[str, str], list[str]]:
    """Files, versions and absent requirements of `roots` and of all that they require here (by their markers, without extras).

    `search` is a list of folders that hold distributions (default: sys.path). A requirement is absent if it is not installed or lists no
    files. ValueError if a root is absent.
    """
    from packaging.utils import canonicalize_name

    installed = {}
    for distribution in importlib.metadata.distributions(**({} if search is None else {"path": search})):
        if distribution.metadata["Name"]:  # None where an interrupted pip left a folder without METADATA
            installed.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution)
    roots = [canonicalize_name(root) for root in roots]
    found, versions, absent, waiting, seen = [], {}, [], list(roots), set(roots)
    while waiting:
        name = waiting.pop()
        distribution = installed.get(name)
        if distribution is None or distribution.files is None:
            if name in roots:
                raise ValueError(
                    f"{name} is not installed with its list of files, and prepare.source builtin reads "
                    f"its documentation; run pip install {name}, or set prepare.source to local"
                )
            absent.append(name)
            continue
        versions[name] = distribution.version
        found += _files_of(distribution)
        required = set(_requirements(distribution)) - seen
        seen |= required
        waiting += sorted(required)
    return in_order(found), dict(sorted(versions.items())), sorted(absent)


def _requirements(distribution: importlib.metadata.Distribution) -> Iterator[str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def _files_of(distribution: importlib.metadata.Distribution) -> Iterator[Source]:
    modules = [file for file in distribution.files if file.suffix == ".py" and ".." not in file.parts]
    # The description in METADATA goes to the split of its package, because a README repeats what the docstrings say.
    tops = Counter(_top_level(module) for module in modules)
    main = max(sorted(tops), key=tops.get, default=distribution.metadata["Name"].lower())
    for file in distribution.files:
        name = PurePosixPath(file)
        if ".." in name.parts or not _is_wanted(name):
            continue
        is_metadata = name.parts[0].endswith((".dist-info", ".egg-info"))
        yield Source(main if is_metadata else _top_level(name), str(name), Path(distribution.locate_file(file)))


def _top_level(name: PurePosixPath) -> str:
    return name.parts[0] if len(name.parts) > 1 else name.stem


def _is_wanted(name: PurePosixPath) -> bool:
    if LEFT_OUT_FOLDERS.intersection(name.parts[:-1]):
        return False
    if name.suffix in DOCUMENTATION:
        return not LEFT_OUT_FILES.match(name.name)
    return name.suffix == ".py" or (name.name == "METADATA" and len(name.parts) == 2)


def versions_of_all(distributions: dict[str, str]) -> dict[str, str]:
    """The versions that determine the corpus: that of Python and of each distribution."""
    return {"python": platform.python_version(), **distributions}


def extract(sources: list[Source], *, workers: int) -> Iterator[list[str]]:
    """The prose paragraphs of each source, in order. Parsing takes nearly all of the time and is spread over processes."""
    workers = min(workers, len(sources) // MIN_FILES_PER_WORKER)
    if workers < 2:
        yield from map(_paragraphs, sources)
        return
    # spawn: a forked child inherits the locks of a progress bar's thread
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
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


def documents(sources: list[Source], paragraphs: Iterable[list[str]]) -> list[Document]:
    """One document per source that has enough prose left after repeated paragraphs are dropped, shuffled by name."""
    seen: set[str] = set()
    found = {}
    for source, all_of_it in zip(sources, paragraphs, strict=True):
        kept = [paragraph for paragraph in dict.fromkeys(all_of_it) if paragraph not in seen]
        text = "\n\n".join(kept)
        if len(text.encode()) >= MIN_DOCUMENT_BYTES:
            seen.update(kept)
            name = hashlib.sha256(f"{source.package}:{source.name}".encode()).digest()
            found.setdefault(name, Document(source.package, text))
    return [found[name] for name in sorted(found)]
