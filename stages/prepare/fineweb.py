"""The published FineWeb files: token shards, the frozen document list, or parquet, from a Hugging Face dataset repository.

`fetch` resolves the revision to one commit, lists that commit, downloads with the hub's own client (so HF_HOME, HF_ENDPOINT, HF_TOKEN and
proxies are honoured), and checks every file: its size, and its sha256 where the hub keeps one (LFS), else its git hash. Because the commit
is fixed, a cached manifest cannot come from another state or another repository.

If the download is interrupted, finished files are kept. Over plain HTTP the client resumes inside a file with a Range request during the
same call. A later call starts that file again, because the client names its partial files uniquely (huggingface_hub #4228).

Offline (HF_HUB_OFFLINE=1), no connection is made. The listing of a commit is saved under HF_HOME/assets/caddie when it is first read, so
completeness and checksums are checked exactly as online.

Layout, below `root`: manifest.json; datasets/fineweb10B_<variant>/fineweb_{train,val,val_bytes}_%06d.bin; tokenizers/*; docs_selected.jsonl
with docs_selected.source_manifest.json. Source: the official export of parameter-golf.
"""

import difflib
import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.lib.node.params import require
from stages.prepare.hub import Repository, Source


@dataclass(frozen=True)
class Fetched:
    """Where the files are in the hub's cache, and what they are. Tuples are in name order (parquet: in the patterns' order)."""

    contents: str
    revision: str  # the commit, 40 hexadecimal digits
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    sidecars: tuple[Path, ...]  # bytes per val token, one file per val shard, or none
    tokenizer: Path | None
    documents: tuple[Path, ...]  # one JSONL file, or parquet files
    files: dict[str, dict]  # path in the repository -> {"bytes", "sha256"}
    manifest: dict  # manifest.json or the source manifest, parsed; {} for parquet


def fetch(source: Source) -> Fetched:
    """Download and check what `source` names, and return where it is.

    ValueError, one sentence with the way out, for mistakes of the user and failures of the hub or the network. An OSError of this machine
    (disk full, no permission) passes unchanged.
    """
    require(bool(source.revision), "revision is empty; write main, a tag, or a full commit hash")
    _inside(source.root, "root", empty=True)
    repository = Repository(source)
    return {"tokens": _tokens, "documents": _documents, "parquet": _parquet}[source.contents](source, repository)


def _tokens(source: Source, repository: Repository) -> Fetched:
    _inside(source.variant, "variant")
    name, where = f"fineweb10B_{source.variant}", _join(source.root, "manifest.json")
    manifest = repository.parsed(where)
    entry = _entry(manifest, "datasets", name, repository.naming(where), f"variant {source.variant!r}")
    counts = entry.get("stats") if isinstance(entry.get("stats"), dict) else {}
    for key in ("files_train", "files_val"):
        require(
            type(counts.get(key)) is int and counts[key] > 0,
            f"{repository.naming(where)} gives {counts.get(key)!r} as "
            f"stats.{key} of {name}, which is no number of files; choose another revision",
        )
    require(
        source.train_shards <= counts["files_train"],
        f"train_shards is {source.train_shards}, but {name} of {source.repository} has {counts['files_train']}; ask for at most that many",
    )

    folder = _join(source.root, "datasets", name)
    listed = repository.folder(folder)
    train, val = (
        [f"{folder}/fineweb_{split}_{index:06d}.bin" for index in range(count)]
        for split, count in (("train", source.train_shards), ("val", counts["files_val"]))
    )
    present = sum(bool(re.fullmatch(r"fineweb_val_\d+\.bin", PurePosixPath(path).name)) for path in listed)
    require(
        present == len(val),
        f"{repository.naming(where)} promises {len(val)} val shards of {name}, {folder} holds {present}; "
        "a score on part of the val split is no score: choose another revision",
    )
    sidecars = sorted(path for path in listed if re.fullmatch(r"fineweb_val_bytes_\d+\.bin", PurePosixPath(path).name))
    require(
        sidecars in ([], [path.replace("fineweb_val_", "fineweb_val_bytes_") for path in val]),
        f"{repository.naming(folder)} has {len(sidecars)} byte sidecars for {len(val)} val shards; each shard needs its own: "
        "choose another revision",
    )

    listed_tokenizer = _entry(manifest, "tokenizers", entry.get("tokenizer_name"), repository.naming(where), f"the tokenizer of {name}")
    path = listed_tokenizer.get("model_path") or listed_tokenizer.get("path")
    require(
        isinstance(path, str),
        f"{repository.naming(where)} gives no model_path or path for the tokenizer of {name}; choose another revision",
    )
    tokenizer = _join(source.root, _inside(path, repository.naming(where)))
    at = repository.get([tokenizer, *sidecars, *val, *train])
    return Fetched(
        "tokens",
        repository.commit,
        tuple(at[p] for p in train),
        tuple(at[p] for p in val),
        tuple(at[p] for p in sidecars),
        at[tokenizer],
        (),
        repository.files,
        manifest,
    )


def _documents(source: Source, repository: Repository) -> Fetched:
    name, where = _join(source.root, "docs_selected.jsonl"), _join(source.root, "docs_selected.source_manifest.json")
    manifest = repository.parsed(where)
    for key in ("docs_val", "docs_bytes", "docs_sha256"):
        require(key in manifest, f"{repository.naming(where)} has no {key!r}; choose another revision")
    promised = (manifest["docs_bytes"], manifest["docs_sha256"])

    def compare(*found: object) -> None:
        require(
            found == promised,
            f"{repository.naming(where)} promises {promised[0]} bytes with sha256 {promised[1]}, but "
            f"the list beside it has {found[0]} bytes with sha256 {found[1]}: these are other documents, choose another revision",
        )

    remote = repository.remote(name)
    compare(remote.bytes, remote.sha256 or promised[1])  # before 48 GB are downloaded in vain
    at = repository.get([name])
    compare(*repository.files[name].values())
    return Fetched("documents", repository.commit, (), (), (), None, (at[name],), repository.files, manifest)


def _parquet(source: Source, repository: Repository) -> Fetched:
    require(bool(source.files), "files is empty; name at least one pattern, such as sample/10BT/*.parquet")
    names: dict[str, None] = {}
    for pattern in source.files:
        _inside(pattern, "files")
        wanted = PurePosixPath(_join(source.root, pattern)).parts
        fixed = next((index for index, part in enumerate(wanted[:-1]) if re.search(r"[*?\[]", part)), len(wanted) - 1)
        folder = "/".join(wanted[:fixed])
        listed = repository.folder(folder, recursive=fixed < len(wanted) - 1)
        found = sorted(path for path in listed if _matches(PurePosixPath(path).parts, wanted))
        require(
            bool(found),
            f"files: nothing in {repository.naming(folder)} matches {pattern!r}{_nearest('/'.join(wanted), listed)}; correct the pattern",
        )
        for path in found:
            require(path.endswith(".parquet"), f"files: {pattern!r} matches {path}, which is no .parquet file; narrow the pattern")
        names |= dict.fromkeys(found)
    at = repository.get(list(names))
    return Fetched("parquet", repository.commit, (), (), (), None, tuple(at[name] for name in names), repository.files, {})


def _matches(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _entry(manifest: dict, section: str, name: object, where: str, what: str) -> dict:
    """The entry called `name` in a list of a manifest; ValueError with the nearest spelling."""
    entries = manifest.get(section)
    require(
        isinstance(entries, list) and all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries),
        f"{where} has no list of named {section}; it is cut short or of another format, choose another revision",
    )
    found = {entry["name"]: entry for entry in entries}
    require(name in found, f"{where} does not have {what}, {name!r}{_nearest(str(name), found)}; choose one that it has")
    return found[name]


def _nearest(name: str, known) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else f" (it has {', '.join(sorted(known)[:12]) or 'nothing'})"


def _inside(path: str, owner: str, *, empty: bool = False) -> str:
    """`path` itself if it stays below the folder it is joined to; ValueError naming `owner` if it is absolute or climbs."""
    pure = PurePosixPath(path)
    require(
        not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and (empty or bool(pure.parts)),
        f"{owner}: {path!r} is no relative path that stays inside its folder; write one without a leading / and without ..",
    )
    return path


def _join(*parts: str) -> str:
    return str(PurePosixPath(*parts))
