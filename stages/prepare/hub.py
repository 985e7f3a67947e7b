"""A dataset repository on the Hugging Face hub: its listing at one commit, and the download and check of its files.

fineweb.py describes interrupted and offline downloads.
"""

import contextlib
import hashlib
import json
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
    """What to fetch. `variant` and `train_shards` are used for tokens, `files` (glob patterns below `root`) for parquet."""

    contents: Literal["tokens", "documents", "parquet"]
    repository: str  # owner/name of a dataset repository
    revision: str  # commit, tag or branch
    root: str  # folder that holds the layout; "" for the repository itself
    variant: str  # sp1024, sp8192, byte260, ...
    train_shards: AtLeastOne  # how many of the train shards, from the first; val is always complete
    files: tuple[str, ...]  # sample/10BT/*.parquet, ...; `*` does not cross a slash


@dataclass(frozen=True)
class Remote:
    """One file as the hub lists it: size in bytes, sha256 of the content if it is an LFS file, git's hash of the blob."""

    bytes: int
    sha256: str | None
    git: str


class Repository:
    """One commit of a dataset repository. `files` grows with each file that was fetched and verified."""

    def __init__(self, source: Source):
        self.source, self.files, self.folders = source, {}, {}
        with _explained(source, "its revision"):
            self.commit = (
                HfApi()
                .resolve_revision(source.repository, repo_type="dataset", revision=source.revision, local_files_only=is_offline_mode())
                .resolved
            )

    def naming(self, path: str) -> str:
        """The name of a file or folder in a sentence."""
        return f"{path or 'the top folder'} of {self.source.repository} at commit {self.commit[:12]}"

    def folder(self, path: str, *, recursive: bool = False) -> dict[str, Remote]:
        """The files in a folder of the commit, by their path in the repository. Empty if there is no such folder."""
        if (path, recursive) not in self.folders:
            record = cached_assets_path("caddie", namespace=self.source.repository, subfolder=self.commit)
            record /= f"{'tree' if recursive else 'folder'}{quote(f'/{path}', safe='')}.json"
            if is_offline_mode():
                require(
                    record.exists(),
                    f"HF_HUB_OFFLINE is set and {self.naming(path)} was never listed on this machine; unset it and run once with a network",
                )
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
                entries = list(
                    HfApi().list_repo_tree(
                        self.source.repository, path or None, recursive=recursive, revision=self.commit, repo_type="dataset"
                    )
                )
            except RemoteEntryNotFoundError:
                return {}
        return {
            entry.path: Remote(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in entries
            if hasattr(entry, "blob_id")
        }

    def remote(self, path: str) -> Remote:
        """The hub's listing of one file. ValueError if the file is not listed."""
        folder = str(PurePosixPath(path).parent)
        known = next((files[path] for files in self.folders.values() if path in files), None)
        known = known or self.folder("" if folder == "." else folder).get(path)
        require(known is not None, f"{self.naming(path)} is missing; check repository, revision and root, or choose another revision")
        return known

    def get(self, paths: list[str]) -> dict[str, Path]:
        """Download and check files, a few at a time. Returns the location of each in the cache."""
        remotes = {path: self.remote(path) for path in paths}
        progress = _Progress(sum(remote.bytes for remote in remotes.values()))
        with progress, ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
            futures = {path: pool.submit(self._get, path, remote, progress) for path, remote in remotes.items()}
            try:
                for future in as_completed(futures.values()):
                    future.result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                progress.stopped = not isinstance(error, Exception)  # stop at once on Ctrl-C; else finish and keep the running downloads
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
        sha256, git = digests(at, length, count)
        if remote.sha256 and sha256 != remote.sha256:
            raise self._wrong(path, at, f"sha256 {sha256}", remote.sha256)
        if not remote.sha256 and git != remote.git:
            raise self._wrong(path, at, f"git hash {git}", remote.git)
        return at, sha256

    def _wrong(self, path: str, at: Path, has: str, expected: str) -> ValueError:
        # The entry in `snapshots` is a link. If only the link were removed, the client would link the damaged blob again.
        return ValueError(f"{self.naming(path)} has {has} in the cache, the hub says {expected}; delete {at.resolve()} and run it again")

    def parsed(self, path: str) -> dict:
        """Fetch a file and parse it as a JSON object."""
        at = self.get([path])[path]
        try:
            content = json.loads(at.read_bytes())
        except ValueError as error:
            raise ValueError(f"{self.naming(path)} is not valid JSON ({error}), and so it is on the hub; choose another revision") from None
        require(isinstance(content, dict), f"{self.naming(path)} is no JSON object; choose another revision")
        return content


def digests(at: Path, length: int, count: Callable[[int], None]) -> tuple[str, str]:
    """sha256 of a file, and its git hash: sha1 of "blob <length>\\0" and the content."""
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
        return (
            f"HF_HUB_OFFLINE is set and {what} is not in the cache {constants.HF_HUB_CACHE} ({source.repository}, revision "
            f"{source.revision}); unset it and run once with a network"
        )
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
    return (
        f"the transfer of {what} from {page} failed ({error}); check the network, HF_ENDPOINT and proxies, or set "
        f"HF_HUB_OFFLINE=1 to use what is cached, and {AGAIN}"
    )
