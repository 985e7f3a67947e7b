"""The published FineWeb files: token shards, the frozen document list, or parquet, from a Hugging Face dataset repository.

`fetch` resolves the revision to one commit, lists that commit, downloads with the hub's own client (so HF_HOME, HF_ENDPOINT,
HF_TOKEN and proxies are honoured), and checks every file: its size, and its sha256 where the hub keeps one (LFS), else its git
hash. Pinned to a commit, a cached manifest cannot be that of another state or of another repository.

Interrupted: finished files are kept. Over plain HTTP the client goes on inside a file with a Range request for as long as the
call lives; a later call starts that one file again, for it names its partial files uniquely (huggingface_hub #4228).

Offline (HF_HUB_OFFLINE=1): no connection is made. The listing of a commit is kept under HF_HOME/assets/caddie when it is first
read, so completeness and checksums are judged exactly as online.

Layout, below `root`: manifest.json; datasets/fineweb10B_<variant>/fineweb_{train,val,val_bytes}_%06d.bin; tokenizers/*;
docs_selected.jsonl with docs_selected.source_manifest.json. Source: the official export of parameter-golf.
"""

import contextlib
import difflib
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote

from huggingface_hub import HfApi, cached_assets_path, constants, hf_hub_download, is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from tqdm import tqdm

from stages.lib.node import files
from stages.lib.node.params import AtLeastOne, require

PARALLEL_DOWNLOADS = 4
READ_BYTES = 1 << 20
AGAIN = "run it again: finished files are kept"


@dataclass(frozen=True)
class Source:
    """What to fetch. `variant` and `train_shards` matter for tokens, `files` (glob patterns below `root`) for parquet."""

    contents: Literal["tokens", "documents", "parquet"]
    repository: str          # owner/name of a dataset repository
    revision: str            # commit, tag or branch
    root: str                # folder that holds the layout; "" for the repository itself
    variant: str             # sp1024, sp8192, byte260, ...
    train_shards: AtLeastOne  # how many of the train shards, from the first; val is always complete
    files: tuple[str, ...]   # sample/10BT/*.parquet, ...; `*` does not cross a slash


@dataclass(frozen=True)
class Fetched:
    """Where the files lie in the hub's cache, and what they are. Tuples are in name order (parquet: in the patterns' order)."""

    contents: str
    revision: str                    # the commit, 40 hexadecimal digits
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    sidecars: tuple[Path, ...]       # bytes per val token, one file per val shard, or none
    tokenizer: Path | None
    documents: tuple[Path, ...]      # one JSONL file, or parquet files
    files: dict[str, dict]           # path in the repository -> {"bytes", "sha256"}
    manifest: dict                   # manifest.json or the source manifest, parsed; {} for parquet


@dataclass(frozen=True)
class Remote:
    """One file as the hub lists it: size in bytes, sha256 of the content if it is an LFS file, git's hash of the blob."""

    bytes: int
    sha256: str | None
    git: str


def fetch(source: Source) -> Fetched:
    """Download what `source` names, check it, and say where it lies.

    ValueError, one sentence with the way out, for what a user, the hub or the network can get wrong; an OSError of this machine
    (disk full, no permission) passes unchanged.
    """
    require(bool(source.revision), "revision is empty; write main, a tag, or a full commit hash")
    _inside(source.root, "root", empty=True)
    repository = _Repository(source)
    return {"tokens": _tokens, "documents": _documents, "parquet": _parquet}[source.contents](source, repository)


def _tokens(source: Source, repository: "_Repository") -> Fetched:
    _inside(source.variant, "variant")
    name, where = f"fineweb10B_{source.variant}", _join(source.root, "manifest.json")
    manifest = repository.parsed(where)
    entry = _entry(manifest, "datasets", name, repository.naming(where), f"variant {source.variant!r}")
    counts = entry.get("stats") if isinstance(entry.get("stats"), dict) else {}
    for key in ("files_train", "files_val"):
        require(type(counts.get(key)) is int and counts[key] > 0, f"{repository.naming(where)} gives {counts.get(key)!r} as "
                f"stats.{key} of {name}, which is no number of files; choose another revision")
    require(source.train_shards <= counts["files_train"],
            f"train_shards is {source.train_shards}, but {name} of {source.repository} has {counts['files_train']}; ask for "
            "at most that many")

    folder = _join(source.root, "datasets", name)
    listed = repository.folder(folder)
    train, val = ([f"{folder}/fineweb_{split}_{index:06d}.bin" for index in range(count)]
                  for split, count in (("train", source.train_shards), ("val", counts["files_val"])))
    present = sum(bool(re.fullmatch(r"fineweb_val_\d+\.bin", PurePosixPath(path).name)) for path in listed)
    require(present == len(val), f"{repository.naming(where)} promises {len(val)} val shards of {name}, {folder} holds {present}; "
            "a score on part of the val split is no score: choose another revision")
    sidecars = sorted(path for path in listed if re.fullmatch(r"fineweb_val_bytes_\d+\.bin", PurePosixPath(path).name))
    require(sidecars in ([], [path.replace("fineweb_val_", "fineweb_val_bytes_") for path in val]),
            f"{repository.naming(folder)} has {len(sidecars)} byte sidecars for {len(val)} val shards; each shard needs its own: "
            "choose another revision")

    listed_tokenizer = _entry(manifest, "tokenizers", entry.get("tokenizer_name"), repository.naming(where), f"the tokenizer of {name}")
    path = listed_tokenizer.get("model_path") or listed_tokenizer.get("path")
    require(isinstance(path, str), f"{repository.naming(where)} gives no model_path or path for the tokenizer of {name}; choose "
            "another revision")
    tokenizer = _join(source.root, _inside(path, repository.naming(where)))
    at = repository.get([tokenizer, *sidecars, *val, *train])
    return Fetched("tokens", repository.commit, tuple(at[p] for p in train), tuple(at[p] for p in val),
                   tuple(at[p] for p in sidecars), at[tokenizer], (), repository.files, manifest)


def _documents(source: Source, repository: "_Repository") -> Fetched:
    name, where = _join(source.root, "docs_selected.jsonl"), _join(source.root, "docs_selected.source_manifest.json")
    manifest = repository.parsed(where)
    for key in ("docs_val", "docs_bytes", "docs_sha256"):
        require(key in manifest, f"{repository.naming(where)} has no {key!r}; choose another revision")
    promised = (manifest["docs_bytes"], manifest["docs_sha256"])

    def compare(*found: object) -> None:
        require(found == promised, f"{repository.naming(where)} promises {promised[0]} bytes with sha256 {promised[1]}, but "
                f"the list beside it has {found[0]} bytes with sha256 {found[1]}: these are other documents, choose another revision")

    remote = repository.remote(name)
    compare(remote.bytes, remote.sha256 or promised[1])  # before 48 GB are fetched for nothing
    at = repository.get([name])
    compare(*repository.files[name].values())
    return Fetched("documents", repository.commit, (), (), (), None, (at[name],), repository.files, manifest)


def _parquet(source: Source, repository: "_Repository") -> Fetched:
    require(bool(source.files), "files is empty; name at least one pattern, such as sample/10BT/*.parquet")
    names: dict[str, None] = {}
    for pattern in source.files:
        _inside(pattern, "files")
        wanted = PurePosixPath(_join(source.root, pattern)).parts
        fixed = next((index for index, part in enumerate(wanted[:-1]) if re.search(r"[*?\[]", part)), len(wanted) - 1)
        folder = "/".join(wanted[:fixed])
        listed = repository.folder(folder, recursive=fixed < len(wanted) - 1)
        found = sorted(path for path in listed if _matches(PurePosixPath(path).parts, wanted))
        require(bool(found), f"files: nothing in {repository.naming(folder)} matches {pattern!r}{_nearest('/'.join(wanted), listed)}; "
                "correct the pattern")
        for path in found:
            require(path.endswith(".parquet"), f"files: {pattern!r} matches {path}, which is no .parquet file; narrow the pattern")
        names |= dict.fromkeys(found)
    at = repository.get(list(names))
    return Fetched("parquet", repository.commit, (), (), (), None, tuple(at[name] for name in names), repository.files, {})


def _matches(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


class _Repository:
    """One commit of a dataset repository. `files` grows with what was fetched and found right."""

    def __init__(self, source: Source):
        self.source, self.files, self.folders = source, {}, {}
        with _explained(source, "its revision"):
            self.commit = HfApi().resolve_revision(source.repository, repo_type="dataset", revision=source.revision,
                                                   local_files_only=is_offline_mode()).resolved

    def naming(self, path: str) -> str:
        """How a file or folder is named in a sentence."""
        return f"{path or 'the top folder'} of {self.source.repository} at commit {self.commit[:12]}"

    def folder(self, path: str, *, recursive: bool = False) -> dict[str, Remote]:
        """The files in a folder of the commit by their path in the repository; empty if there is no such folder."""
        if (path, recursive) not in self.folders:
            record = cached_assets_path("caddie", namespace=self.source.repository, subfolder=self.commit)
            record /= f"{'tree' if recursive else 'folder'}{quote(f'/{path}', safe='')}.json"
            if is_offline_mode():
                require(record.exists(), f"HF_HUB_OFFLINE is set and {self.naming(path)} was never listed on this machine; unset "
                        "it and run once with a network")
                listed = {name: Remote(**entry) for name, entry in files.read_json(record).items()}
            else:
                listed = self._list(path, recursive)
                content = {name: asdict(remote) for name, remote in listed.items()}
                if not record.exists() or files.read_json(record) != content:  # a complete cache may be read-only
                    files.write_json(record, content)
            self.folders[path, recursive] = listed
        return self.folders[path, recursive]

    def _list(self, path: str, recursive: bool) -> dict[str, Remote]:
        with _explained(self.source, self.naming(path)):
            try:
                entries = list(HfApi().list_repo_tree(self.source.repository, path or None, recursive=recursive,
                                                      revision=self.commit, repo_type="dataset"))
            except RemoteEntryNotFoundError:
                return {}
        return {entry.path: Remote(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in entries if hasattr(entry, "blob_id")}

    def remote(self, path: str) -> Remote:
        """What the hub lists for one file; ValueError if it lists none."""
        folder = str(PurePosixPath(path).parent)
        known = next((files[path] for files in self.folders.values() if path in files), None)
        known = known or self.folder("" if folder == "." else folder).get(path)
        require(known is not None, f"{self.naming(path)} is missing; check repository, revision and root, or choose another revision")
        return known

    def get(self, paths: list[str]) -> dict[str, Path]:
        """Download and check files, a few at a time; where each lies in the cache."""
        remotes = {path: self.remote(path) for path in paths}
        progress = _Progress(sum(remote.bytes for remote in remotes.values()))
        with progress, ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
            futures = {path: pool.submit(self._get, path, remote, progress) for path, remote in remotes.items()}
            try:
                for future in as_completed(futures.values()):
                    future.result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                progress.stopped = not isinstance(error, Exception)  # Ctrl-C; else what is under way is finished, and kept
                raise
            done = {path: future.result() for path, future in futures.items()}
        self.files |= {path: {"bytes": remotes[path].bytes, "sha256": sha256} for path, (_, sha256) in done.items()}
        return {path: at for path, (at, _) in done.items()}

    def _get(self, path: str, remote: Remote, progress: "_Progress") -> tuple[Path, str]:
        count, client_bar = progress.of_file(remote.bytes)
        with _explained(self.source, self.naming(path)):
            at = Path(hf_hub_download(self.source.repository, path, repo_type="dataset", revision=self.commit, tqdm_class=client_bar))
        length = at.stat().st_size
        if length != remote.bytes:
            raise self._wrong(path, at, f"{length} bytes", f"{remote.bytes}")
        sha256, git = _digests(at, length, count)
        if remote.sha256 and sha256 != remote.sha256:
            raise self._wrong(path, at, f"sha256 {sha256}", remote.sha256)
        if not remote.sha256 and git != remote.git:
            raise self._wrong(path, at, f"git hash {git}", remote.git)
        return at, sha256

    def _wrong(self, path: str, at: Path, has: str, expected: str) -> ValueError:
        # The entry in `snapshots` is a link: with only that gone, the client would link the damaged blob again.
        return ValueError(f"{self.naming(path)} has {has} in the cache, the hub says {expected}; delete {at.resolve()} and run it again")

    def parsed(self, path: str) -> dict:
        """A fetched and parsed JSON object."""
        at = self.get([path])[path]
        try:
            content = json.loads(at.read_bytes())
        except ValueError as error:
            raise ValueError(f"{self.naming(path)} is not valid JSON ({error}), and so it is on the hub; choose another revision") from None
        require(isinstance(content, dict), f"{self.naming(path)} is no JSON object; choose another revision")
        return content


def _digests(at: Path, length: int, count: Callable[[int], None]) -> tuple[str, str]:
    """sha256 of a file, and git's hash of it: sha1 of "blob <length>\\0" and the content."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % length, usedforsecurity=False)
    with open(at, "rb") as handle:
        while block := handle.read(READ_BYTES):
            sha256.update(block)
            git.update(block)
            count(len(block))
    return sha256.hexdigest(), git.hexdigest()


class _Progress:
    """One bar over the bytes of all files: each byte counts once, when it arrives or, if it was cached, when it is checked."""

    def __init__(self, total: int):
        self.bar = tqdm(total=total, unit="B", unit_scale=True, desc="fetching", disable=None)
        self.lock, self.stopped = threading.Lock(), False

    def __enter__(self) -> None:
        self.bar.__enter__()

    def __exit__(self, *error) -> None:
        self.bar.__exit__(*error)

    def add(self, count: int) -> None:
        """Count bytes; after `stopped` it raises instead, which ends the transfer that reports them."""
        if self.stopped:
            raise CancelledError
        with self.lock:
            self.bar.update(count)

    def of_file(self, total: int) -> tuple[Callable[[int], None], type]:
        """For one file: a function that counts checked bytes, and a class that huggingface_hub takes for its tqdm."""
        progress, arrived = self, 0

        def checked(count: int) -> None:
            nonlocal arrived
            step = min(count, total - arrived)
            progress.add(step)
            arrived += step

        class ClientBar:
            def __init__(self, *_, **options):
                self.update(options.get("initial", 0))

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None

            def update(self, count=1):
                nonlocal arrived
                progress.add(count)
                arrived += count

            def close(self, *_, **__):
                return None

            update_transfer = set_postfix_str = set_transfer_postfix_str = close

        return checked, ClientBar


@contextlib.contextmanager
def _explained(source: Source, what: str) -> Iterator[None]:
    """Turn the client's exceptions into one sentence; what the operating system refuses (it has an errno) passes unchanged.

    RuntimeError is what the Xet transfer raises when it has retried in vain.
    """
    try:
        yield
    except (HTTPError, OSError, RuntimeError, RevisionResolutionError, HFValidationError, json.JSONDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(_sentence(error, source, what)) from None


def _sentence(error: Exception, source: Source, what: str) -> str:
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client says "check your connection" for whatever the hub refused
    page = f"{constants.ENDPOINT}/datasets/{source.repository}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, HFValidationError):
        return f"repository {source.repository!r} is not a name on the hub ({error}); write owner/name"
    if is_offline_mode():
        return (f"HF_HUB_OFFLINE is set and {what} is not in the cache {constants.HF_HUB_CACHE} ({source.repository}, revision "
                f"{source.revision}); unset it and run once with a network")
    if isinstance(error, GatedRepoError) or status == 403:
        return f"access to {page} is restricted; accept its terms there, then log in (`hf auth login`, HF_TOKEN)"
    if isinstance(error, RevisionNotFoundError):
        return f"{page} has no revision {source.revision!r}; set revision to a branch, a tag or a full commit hash of it"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"{what} is listed by the hub but cannot be downloaded; choose another revision, or {AGAIN}"
    if status in (401, 404):
        return f"{page} does not exist or is private; check the spelling of repository, or log in (`hf auth login`, HF_TOKEN)"
    if status is not None:
        return f"{constants.ENDPOINT} answered {status} for {what} of {source.repository}; wait a while and {AGAIN}"
    return (f"the transfer of {what} from {page} failed ({error}); check the network, HF_ENDPOINT and proxies, or set "
            f"HF_HUB_OFFLINE=1 to use what is cached, and {AGAIN}")


def _entry(manifest: dict, section: str, name: object, where: str, what: str) -> dict:
    """The entry called `name` in a list of a manifest; ValueError with the nearest spelling."""
    entries = manifest.get(section)
    require(isinstance(entries, list) and all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries),
            f"{where} has no list of named {section}; it is cut short or of another format, choose another revision")
    found = {entry["name"]: entry for entry in entries}
    require(name in found, f"{where} does not have {what}, {name!r}{_nearest(str(name), found)}; choose one that it has")
    return found[name]


def _nearest(name: str, known) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else f" (it has {', '.join(sorted(known)[:12]) or 'nothing'})"


def _inside(path: str, owner: str, *, empty: bool = False) -> str:
    """`path` itself if it stays below the folder it is joined to; ValueError naming `owner` if it is absolute or climbs."""
    pure = PurePosixPath(path)
    require(not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and (empty or bool(pure.parts)),
            f"{owner}: {path!r} is no relative path that stays inside its folder; write one without a leading / and without ..")
    return path


def _join(*parts: str) -> str:
    return str(PurePosixPath(*parts))
