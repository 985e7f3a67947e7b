"""A dataset repository on 127.0.0.1 that answers as the Hugging Face Hub does, as far as its client asks while downloading.

    GET  /api/datasets/<owner>/<name>/revision/<revision>          {"id", "sha"}
    GET  /api/datasets/<owner>/<name>/tree/<revision>[/<folder>]   pages of PAGE entries, the next one in a Link header
    HEAD, GET /datasets/<owner>/<name>/resolve/<revision>/<path>   ETag, X-Repo-Commit, X-Linked-Etag and -Size for LFS, Range

Misbehaviour is data: `cuts[path]` are byte counts after which the answers to GET break off, one per request; `swaps[path]` is what
is sent instead of the content; `refusals[path or repository]` is (status, error code). `requests` records (method, path, Range).
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS = (".bin", ".model", ".jsonl", ".parquet")
PAGE = 3
FOLDER = "datasets/datasets/fineweb10B_sp1024"


def commit_of(files: dict[str, bytes]) -> str:
    """A commit hash that names exactly this content."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def git_hash(content: bytes) -> str:
    """git's name for a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def manifest(*, train: int = 3, val: int = 1, tokenizer: str = "tokenizers/fineweb_1024_bpe.model", **stats) -> bytes:
    """manifest.json of a repository with the one variant sp1024; `stats` overrides what it says of it."""
    return json.dumps(
        {
            "datasets": [
                {"name": "fineweb10B_sp1024", "tokenizer_name": "sp_bpe_1024", "stats": {"files_train": train, "files_val": val, **stats}}
            ],
            "tokenizers": [{"name": "sp_bpe_1024", "model_path": tokenizer, "vocab_path": "tokenizers/fineweb_1024_bpe.vocab"}],
        }
    ).encode()


def golf(*, train: int = 3, val: int = 1, sidecars: int = 0, **options) -> dict[str, bytes]:
    """A repository in the published layout; a shard's content is told by its name."""
    names = [
        f"{FOLDER}/fineweb_{split}_{index:06d}.bin"
        for split, count in (("train", train), ("val", val), ("val_bytes", sidecars))
        for index in range(count)
    ]
    return {
        "datasets/manifest.json": manifest(**{"train": train, "val": val} | options),
        "datasets/tokenizers/fineweb_1024_bpe.model": b"pieces" * 40,
        **{name: name.encode() * 200 for name in names},
    }


class Hub:
    """Serves `files` as the branch main of `repository`; a context manager, `url` is the endpoint while it runs."""

    def __init__(self, files: dict[str, bytes], repository: str = "someone/golf"):
        self.repository, self.commits, self.branches = repository, {}, {}
        self.cuts: dict[str, list[int]] = {}
        self.swaps: dict[str, bytes] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.publish(files)

    def publish(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit on `branch`; the older ones stay."""
        commit = commit_of(files)
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def downloads(self) -> list[tuple[str, str | None]]:
        """(file name, Range) of every GET of a file's content, in order."""
        return [(PurePosixPath(path).name, extent) for method, path, extent in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: two would wait 40 ms for a delayed acknowledgement
    hub: Hub

    def log_message(self, *_) -> None:
        """Nothing: the tests look at `requests`."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        repository = self.hub.repository
        if repository in self.hub.refusals:
            return self.refuse(*self.hub.refusals[repository])
        for prefix, handle in (
            (f"/api/datasets/{repository}/revision/", self.revision),
            (f"/api/datasets/{repository}/tree/", self.tree),
            (f"/datasets/{repository}/resolve/", self.resolve),
        ):
            if path.startswith(prefix):
                revision, _, rest = path.removeprefix(prefix).partition("/")
                commit = self.hub.branches.get(revision, revision)
                if commit not in self.hub.commits:
                    return self.refuse(404, "RevisionNotFound")
                return handle(commit, rest, parse_qs(url.query))
        return self.refuse(404, "RepoNotFound")

    def revision(self, commit: str, rest: str, query: dict) -> None:
        self.send(200, json.dumps({"id": self.hub.repository, "sha": commit}).encode())

    def tree(self, commit: str, folder: str, query: dict) -> None:
        files = self.hub.commits[commit]
        inside = {path: path.removeprefix(f"{folder}/") for path in files if not folder or path.startswith(f"{folder}/")}
        if not inside:
            return self.refuse(404, "EntryNotFound")
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        entries = [_entry(path, files[path]) for path in sorted(inside) if recursive or "/" not in inside[path]]
        if not recursive:
            below = sorted({inside[path].split("/")[0] for path in inside if "/" in inside[path]})
            entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f"{folder}/{name}".lstrip("/")} for name in below]
        start = int(query.get("cursor", ["0"])[0])
        link = {}
        if start + PAGE < len(entries):
            page = f"{self.hub.url}{quote(urlsplit(self.path).path, safe='/%')}?recursive={recursive}&cursor={start + PAGE}"
            link = {"Link": f'<{page}>; rel="next"'}
        return self.send(200, json.dumps(entries[start : start + PAGE]).encode(), link)

    def resolve(self, commit: str, path: str, query: dict) -> None:
        files = self.hub.commits[commit]
        if path in self.hub.refusals:
            return self.refuse(*self.hub.refusals[path])
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        entry = _entry(path, files[path])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(entry["size"])}
        content = self.hub.swaps.get(path, files[path])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cuts[path].pop(0) if self.command == "GET" and self.hub.cuts.get(path) else None
        return self.send(206 if start else 200, content[start:], headers, cut=cut)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"", {"X-Error-Code": code} if code else {})

    def send(self, status: int, body: bytes, headers: dict | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if path.endswith(LFS):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        entry["oid"] = git_hash(b"pointer to " + entry["lfs"]["oid"].encode())
    return entry
