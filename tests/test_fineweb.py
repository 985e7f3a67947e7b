"""The published FineWeb files, fetched by the real client of the hub from a hub of our own on this machine."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _cache_assets

from stages.prepare import fineweb
from stages.prepare import hub as downloads
from tests.hub import FOLDER, Hub, commit_of, golf, manifest

ROOT = Path(__file__).resolve().parents[1]
TOKENS = fineweb.Source("tokens", "someone/golf", "main", "datasets", "sp1024", 2, ())
DOCUMENTS = dataclasses.replace(TOKENS, contents="documents")
PARQUET = fineweb.Source("parquet", "someone/golf", "main", "", "", 0, ("sample/10BT/*.parquet",))
TRAIN_0, TRAIN_1, VAL = (f"{FOLDER}/fineweb_{name}_00000{i}.bin" for name, i in (("train", 0), ("train", 1), ("val", 0)))


def documents(**wrong) -> dict[str, bytes]:
    content = b'{"text": "one"}\n{"text": "two"}\n' * 50
    described = {
        "num_docs": 100,
        "docs_val": 40,
        "docs_train": 60,
        "docs_bytes": len(content),
        "docs_sha256": hashlib.sha256(content).hexdigest(),
        "selection_seed": 1337,
    } | wrong
    return {"datasets/docs_selected.jsonl": content, "datasets/docs_selected.source_manifest.json": json.dumps(described).encode()}


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Start a hub and point the client at it: serve(files) -> Hub. The cache is the test's own, and waiting costs nothing."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with contextlib.ExitStack() as stack:

        def start(files: dict[str, bytes]) -> Hub:
            hub = stack.enter_context(Hub(files))
            monkeypatch.setattr(constants, "ENDPOINT", hub.url)
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
            return hub

        yield start


@pytest.fixture
def offline(monkeypatch):
    """Call it to cut the client off."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def change(source: fineweb.Source = TOKENS, **changes) -> fineweb.Source:
    return dataclasses.replace(source, **changes)


def test_token_shards_come_in_order_with_tokenizer_checksums_and_commit(serve, tmp_path):
    files = golf()
    serve(files)
    got = fineweb.fetch(TOKENS)
    assert got.revision == commit_of(files)
    assert [path.read_bytes() for path in got.train] == [files[TRAIN_0], files[TRAIN_1]]
    assert [path.read_bytes() for path in got.val] == [files[VAL]]
    assert got.tokenizer.read_bytes() == files["datasets/tokenizers/fineweb_1024_bpe.model"]
    assert (got.sidecars, got.documents, got.contents) == ((), (), "tokens")
    assert got.manifest == json.loads(files["datasets/manifest.json"])
    assert got.files == {name: {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()} for name in got.files}
    assert set(got.files) == {*files} - {f"{FOLDER}/fineweb_train_000002.bin"}
    assert all(path.is_relative_to(tmp_path / "hub") for path in (*got.train, *got.val, got.tokenizer))


def test_byte_sidecars_are_fetched_and_never_among_the_val_shards(serve):
    files = golf(val=2, sidecars=2)
    serve(files)
    got = fineweb.fetch(TOKENS)
    assert [path.name for path in got.val] == ["fineweb_val_000000.bin", "fineweb_val_000001.bin"]
    assert [path.name for path in got.sidecars] == ["fineweb_val_bytes_000000.bin", "fineweb_val_bytes_000001.bin"]


def test_a_community_repository_without_a_root_folder_and_with_a_byte_tokenizer(serve):
    files = {name.removeprefix("datasets/"): content for name, content in golf().items()}
    files["tokenizers/fineweb_pure_byte_260.json"] = b"{}"
    described = json.loads(files["manifest.json"])
    described["tokenizers"] = [{"name": "sp_bpe_1024", "path": "tokenizers/fineweb_pure_byte_260.json"}]
    serve(files | {"manifest.json": json.dumps(described).encode()})
    assert fineweb.fetch(change(root="")).tokenizer.name == "fineweb_pure_byte_260.json"


def test_the_document_list_is_checked_against_its_source_manifest(serve):
    serve(documents())
    got = fineweb.fetch(DOCUMENTS)
    assert [path.name for path in got.documents] == ["docs_selected.jsonl"]
    assert got.manifest["docs_val"] == 40


@pytest.mark.parametrize("wrong", [{"docs_sha256": "0" * 64}, {"docs_bytes": 7}])
def test_another_document_list_than_promised_is_refused_before_it_is_downloaded(serve, wrong):
    hub = serve(documents(**wrong))
    with pytest.raises(ValueError, match=r"source_manifest\.json .* promises .* these are other documents, choose another revision"):
        fineweb.fetch(DOCUMENTS)
    assert [name for name, _ in hub.downloads()] == ["docs_selected.source_manifest.json"]


def test_a_document_list_whose_sha256_the_hub_does_not_keep_is_compared_after_the_download(serve, monkeypatch):
    monkeypatch.setattr("tests.hub.LFS", ())
    serve(documents(docs_sha256="0" * 64))
    with pytest.raises(ValueError, match="these are other documents, choose another revision"):
        fineweb.fetch(DOCUMENTS)


def test_parquet_files_come_in_the_order_of_the_patterns(serve):
    names = ["sample/10BT/001_00000.parquet", "sample/10BT/000_00000.parquet", "data/a/x.parquet", "data/b/y.parquet"]
    serve({name: name.encode() for name in names} | {"README.md": b"x", "sample/10BT/deeper/z.parquet": b"z"})
    got = fineweb.fetch(change(PARQUET, files=("sample/10BT/*.parquet", "data/*/?.parquet", "data/a/x.parquet")))
    assert [path.read_bytes().decode() for path in got.documents] == [names[1], names[0], names[2], names[3]]
    assert got.manifest == {}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), r"files is empty"),
        (("sample/10TB/*.parquet",), r"nothing in sample/10TB of someone/golf .* matches 'sample/10TB/\*\.parquet'"),
        (("sample/10BT/000_0000.parquet",), r"did you mean 'sample/10BT/000_00000\.parquet'"),
        (("*.md",), r"matches README\.md, which is no \.parquet file"),
        (("../x.parquet",), r"'\.\./x\.parquet' is no relative path"),
    ],
)
def test_a_pattern_that_matches_no_parquet_is_one_sentence(serve, files, sentence):
    serve({"sample/10BT/000_00000.parquet": b"x", "README.md": b"x"})
    with pytest.raises(ValueError, match=sentence):
        fineweb.fetch(change(PARQUET, files=files))


def test_a_cut_download_goes_on_where_it_stopped(serve):
    hub = serve(golf())
    hub.cuts[TRAIN_0] = [5000]
    got = fineweb.fetch(TOKENS)
    first, second = [extent for name, extent in hub.downloads() if name == "fineweb_train_000000.bin"]
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 5000
    assert got.train[0].read_bytes() == golf()[TRAIN_0]


def test_after_a_download_that_failed_the_next_call_does_not_fetch_finished_files_again(serve, tmp_path):
    files = golf()
    hub = serve(files)
    hub.cuts[TRAIN_1] = [5000] + [0] * 6
    with pytest.raises(ValueError, match=r"the transfer of .*train_000001\.bin of someone/golf .* failed .* finished files are kept"):
        fineweb.fetch(TOKENS)
    finished = {path.name for path in (tmp_path / "hub").rglob("*.bin")}
    assert {"fineweb_train_000000.bin", "fineweb_val_000000.bin"} <= finished
    hub.requests.clear()
    assert fineweb.fetch(TOKENS).train[1].read_bytes() == files[TRAIN_1]
    again = {name for name, _ in hub.downloads()}
    assert again == {"fineweb_train_000001.bin"}


def test_an_interrupt_ends_the_transfers_under_way(serve, tmp_path, monkeypatch):
    def interrupted(futures):
        if len(futures) > 1:  # not yet at the manifest
            raise KeyboardInterrupt
        return real(futures)

    real = downloads.as_completed
    monkeypatch.setattr(downloads, "as_completed", interrupted)
    serve(golf() | {TRAIN_0: bytes(1 << 23)})
    with pytest.raises(KeyboardInterrupt):
        fineweb.fetch(TOKENS)
    assert not [*(tmp_path / "hub").rglob("fineweb_train_000000.bin")]


def test_a_second_fetch_downloads_nothing_but_checks_everything(serve, monkeypatch):
    hub = serve(golf())
    first = fineweb.fetch(TOKENS)
    hub.requests.clear()
    checked = []
    real = downloads.digests
    monkeypatch.setattr(downloads, "digests", lambda at, *rest: (checked.append(at.name), real(at, *rest))[1])
    assert fineweb.fetch(TOKENS) == first
    assert hub.downloads() == []
    assert sorted(checked) == sorted(Path(name).name for name in first.files)


@pytest.mark.parametrize(("name", "hashed"), [(TRAIN_0, "sha256"), ("datasets/manifest.json", "git hash")])
def test_a_file_that_arrives_corrupt_is_named_and_the_advice_helps(serve, name, hashed):
    files = golf()
    hub = serve(files)
    hub.swaps[name] = b"#" + files[name][1:]
    for _ in range(2):  # the damaged file is in the cache by then, and no better for it
        with pytest.raises(ValueError, match=rf"{name} of someone/golf .* has {hashed} .* delete \S+ and run it again") as caught:
            fineweb.fetch(TOKENS)
    hub.swaps.clear()
    Path(str(caught.value).split("delete ")[1].split()[0]).unlink()
    assert fineweb.fetch(TOKENS).files[name]["sha256"] == hashlib.sha256(files[name]).hexdigest()


def test_a_cached_file_that_lost_its_end_is_named(serve):
    serve(golf())
    shard = fineweb.fetch(TOKENS).train[0].resolve()
    os.truncate(shard, 100)
    with pytest.raises(ValueError, match=rf"has 100 bytes in the cache, the hub says \d+; delete {shard}"):
        fineweb.fetch(TOKENS)


def test_offline_takes_the_cache_and_makes_no_connection(serve, offline, caplog):
    files = golf(sidecars=1)
    hub = serve(files)
    online = fineweb.fetch(TOKENS)
    hub.requests.clear()
    offline()
    assert fineweb.fetch(TOKENS) == online
    assert fineweb.fetch(change(revision=online.revision)) == online
    assert (hub.requests, caplog.records) == ([], [])


def test_offline_still_checks_the_cache(serve, offline):
    serve(golf())
    shard = fineweb.fetch(TOKENS).val[0].resolve()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    offline()
    with pytest.raises(ValueError, match=r"fineweb_val_000000\.bin .* has sha256"):
        fineweb.fetch(TOKENS)


def test_offline_names_what_is_missing(serve, offline):
    serve(golf())
    fineweb.fetch(TOKENS)
    offline()
    with pytest.raises(ValueError, match=r"fineweb_train_000002\.bin .* is not in the cache .* unset it and run once with a network"):
        fineweb.fetch(change(train_shards=3))
    with pytest.raises(ValueError, match=r"datasets of someone/golf .* was never listed on this machine; unset it"):
        fineweb.fetch(change(revision="1" * 40))
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE is set and its revision is not in the cache .*someone/other"):
        fineweb.fetch(change(repository="someone/other"))


def test_offline_an_incomplete_set_of_parquet_files_is_not_taken_for_all(serve, offline):
    hub = serve({f"sample/10BT/00{index}.parquet": bytes([index]) * 2000 for index in range(6)})
    hub.refusals["sample/10BT/005.parquet"] = (404, "EntryNotFound")
    with pytest.raises(ValueError, match=r"005\.parquet .* is listed by the hub but cannot be downloaded"):
        fineweb.fetch(PARQUET)
    offline()
    with pytest.raises(ValueError, match=r"005\.parquet .* is not in the cache"):
        fineweb.fetch(PARQUET)


def test_a_manifest_cached_from_an_older_commit_is_not_used(serve):
    hub = serve(golf())
    fineweb.fetch(TOKENS)
    older = hub.branches["main"]
    newer = hub.publish(golf(train=5))
    assert fineweb.fetch(TOKENS).manifest["datasets"][0]["stats"]["files_train"] == 5
    assert fineweb.fetch(TOKENS).revision == newer
    assert fineweb.fetch(change(revision=older)).manifest["datasets"][0]["stats"]["files_train"] == 3


def test_a_commit_that_appears_during_the_fetch_changes_nothing(serve, monkeypatch):
    files = golf()
    hub = serve(files)
    real = downloads.Repository.parsed
    monkeypatch.setattr(downloads.Repository, "parsed", lambda *a: (real(*a), hub.publish({"datasets/manifest.json": b"{}"}))[0])
    got = fineweb.fetch(TOKENS)
    assert got.revision == commit_of(files) != hub.branches["main"]
    assert got.val[0].read_bytes() == files[VAL]


@pytest.mark.parametrize(
    ("files", "changes", "sentence"),
    [
        (golf(), {"train_shards": 4}, r"train_shards is 4, but fineweb10B_sp1024 of someone/golf has 3; ask for at most that many"),
        (golf(), {"variant": "sp1042"}, r"does not have variant 'sp1042', 'fineweb10B_sp1042' \(did you mean 'fineweb10B_sp1024'\?\)"),
        (golf(), {"variant": "../x"}, r"variant: '\.\./x' is no relative path"),
        (golf(), {"root": "/datasets"}, r"root: '/datasets' is no relative path"),
        (golf(), {"root": "dataset"}, r"dataset/manifest\.json of someone/golf .* is missing; check repository, revision and root"),
        (golf(), {"revision": "mian"}, r"has no revision 'mian'; set revision to a branch"),
        (golf(), {"revision": "f" * 40}, r"has no revision 'ffff"),
        (golf(), {"revision": ""}, r"revision is empty"),
        (golf(), {"repository": "someone/gulf"}, r"someone/gulf does not exist or is private; check the spelling of repository"),
        (golf(), {"repository": "a/b/c"}, r"repository 'a/b/c' is not a name on the hub .*; write owner/name"),
        (golf(), {"contents": "documents"}, r"docs_selected\.source_manifest\.json of someone/golf .* is missing"),
        (documents(docs_val=1) | {"datasets/docs_selected.source_manifest.json": b"{}"}, {"contents": "documents"}, r"has no 'docs_val'"),
        (golf() | {"datasets/manifest.json": manifest()[:90]}, {}, r"manifest\.json .* is not valid JSON .* choose another revision"),
        (golf() | {"datasets/manifest.json": b"[]"}, {}, r"manifest\.json .* is no JSON object"),
        (golf() | {"datasets/manifest.json": b"{}"}, {}, r"has no list of named datasets; it is cut short"),
        (golf(files_train="3"), {}, r"gives '3' as stats\.files_train of fineweb10B_sp1024"),
        (golf(val=2, **{"files_val": 1}), {}, r"promises 1 val shards of fineweb10B_sp1024, \S+ holds 2; .* choose another revision"),
        (golf(val=1, **{"files_val": 2}), {}, r"promises 2 val shards of fineweb10B_sp1024, \S+ holds 1"),
        (golf(val=2, sidecars=1), {}, r"has 1 byte sidecars for 2 val shards"),
        (golf(files_train=9), {"train_shards": 4}, r"fineweb_train_000003\.bin of someone/golf .* is missing"),
        (golf(tokenizer="../../secret.model"), {}, r"manifest\.json .*: '\.\./\.\./secret\.model' is no relative path that stays inside"),
        (golf(tokenizer="/etc/passwd"), {}, r"'/etc/passwd' is no relative path"),
        (golf(tokenizer="tokenizers/absent.model"), {}, r"tokenizers/absent\.model of someone/golf .* is missing"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_way_out(serve, files, changes, sentence):
    serve(files)
    with pytest.raises(ValueError, match=sentence) as caught:
        fineweb.fetch(change(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("refused", "status", "code", "sentence"),
    [
        ("someone/golf", 401, "", r"does not exist or is private; check the spelling of repository, or log in"),
        ("someone/golf", 403, "", r"is restricted; accept its terms there, then log in"),
        ("someone/golf", 418, "", r"answered 418 for its revision of someone/golf; wait a while and run it again"),
        (TRAIN_1, 401, "GatedRepo", r"is restricted; accept its terms there, then log in"),
        (TRAIN_1, 403, "GatedRepo", r"is restricted; accept its terms there, then log in"),
        (TRAIN_1, 403, "", r"is restricted; accept its terms there, then log in"),
        (TRAIN_1, 503, "", r"answered 503 for \S+train_000001\.bin .* run it again: finished files are kept"),
    ],
)
def test_what_the_hub_refuses_is_explained(serve, refused, status, code, sentence):
    hub = serve(golf())
    hub.refusals[refused] = (status, code)
    with pytest.raises(ValueError, match=sentence):
        fineweb.fetch(TOKENS)


@pytest.mark.parametrize("known", [False, True])
def test_no_network_is_one_sentence(serve, monkeypatch, known):
    serve(golf())
    if known:  # then the client would answer the revision from its cache, and only warn
        fineweb.fetch(TOKENS)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"the transfer of .* from http://127\.0\.0\.1:9/datasets/\S+ failed .* check the network"):
        fineweb.fetch(TOKENS)


def test_an_endpoint_that_is_no_hub_is_one_sentence(serve, monkeypatch):
    serve(golf())
    monkeypatch.setattr("tests.hub._Handler.revision", lambda handler, *_: handler.send(200, b"<html>log in to the hotel's network</html>"))
    with pytest.raises(ValueError, match=r"the transfer of its revision from .* failed .* check the network, HF_ENDPOINT and proxies"):
        fineweb.fetch(TOKENS)


def test_a_transfer_over_xet_that_fails_is_one_sentence(serve, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Task error: File reconstruction error: CAS Client Error")

    serve(golf())
    monkeypatch.setattr(file_download, "http_get", fail)
    with pytest.raises(ValueError, match=r"the transfer of datasets/manifest\.json .* failed \(Task error.*run it again"):
        fineweb.fetch(TOKENS)


def test_a_full_disk_passes_unchanged(serve, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "somewhere")

    def write(*_, **__):
        raise full

    serve(golf())
    monkeypatch.setattr(file_download, "http_get", write)
    with pytest.raises(OSError) as caught:
        fineweb.fetch(TOKENS)
    assert caught.value is full


def test_the_bar_counts_every_byte_once(serve, monkeypatch):
    bars = []

    class Bar(downloads.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": open(os.devnull, "w")})  # noqa: SIM115
            bars.append(self)

    hub = serve(golf())
    monkeypatch.setattr(downloads, "tqdm", Bar)
    hub.cuts[TRAIN_0] = [5000, 100]
    for _ in range(2):  # downloaded, cut and resumed; then all from the cache
        got = fineweb.fetch(TOKENS)
        manifest_bar, shards_bar = bars
        assert manifest_bar.n == manifest_bar.total == got.files["datasets/manifest.json"]["bytes"]
        assert shards_bar.n == shards_bar.total == sum(entry["bytes"] for entry in got.files.values()) - manifest_bar.total
        bars.clear()


def test_home_endpoint_and_offline_are_the_clients_own_variables(tmp_path):
    code = (
        "from tests.test_fineweb import TOKENS; from stages.prepare import fineweb; got = fineweb.fetch(TOKENS); "
        "print(got.revision, got.train[0])"
    )
    with Hub(golf()) as hub:
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        outputs = []
        for extra in ({}, {"HF_HUB_OFFLINE": "1"}):
            before = len(hub.requests)
            outputs.append(
                subprocess.run(
                    [sys.executable, "-c", code], env=environment | extra, cwd=ROOT, check=True, capture_output=True, text=True
                ).stdout
            )
        assert len(hub.requests) == before
    assert outputs[0] == outputs[1]
    assert str(tmp_path / "hub") in outputs[0]
