"""A full disk and a cache that cannot be written to are found before a stage works, and said in one sentence."""

import collections
import os
import shutil

import pytest

from stages.adopt import __main__ as adopt
from stages.audit.outside import kit
from stages.audit.submission import __main__ as submission
from stages.lib.node import files, room
from tests.conftest import run_node

Usage = collections.namedtuple("Usage", "total used free")


def repository(root, config: str = ""):
    (root / ".dvc").mkdir()
    (root / ".dvc/config.local").write_text(config)
    return root


def test_cache_is_where_the_configuration_says(tmp_path):
    folder = repository(tmp_path) / ".dvc"
    (folder / "config").write_text("[core]\n    analytics = false\n")
    assert room.cache(folder) == folder / "cache/files/md5"
    (folder / "config.local").write_text("[cache]\n    dir = ../large\n['remote \"shared\"']\n    url = /x\n")
    assert room.cache(folder).resolve() == tmp_path / "large/files/md5"


def test_cache_that_cannot_be_written_to_is_named_with_the_way_out(tmp_path, monkeypatch):
    repository(tmp_path)
    room.check(tmp_path / "artifacts", tmp_path)
    (tmp_path / ".dvc/cache/files/md5").mkdir(parents=True)
    may = os.access  # root may write anywhere, so a read-only folder is only pretended
    monkeypatch.setattr(os, "access", lambda path, mode: "md5" not in str(path) and may(path, mode))
    with pytest.raises(ValueError, match=r"the cache of DVC, .*files/md5, cannot be written to.*dvc cache dir --local"):
        room.check(tmp_path / "artifacts", tmp_path)


def test_full_disk_stops_a_stage_before_its_work(project, monkeypatch, capsys):
    before = (project / "artifacts/package/submission.pyz").stat().st_mtime_ns
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 3_000_000, 3_000_000))
    with pytest.raises(SystemExit):
        run_node("package")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "artifacts/package, has 3 MB left, and a stage needs at least 50 MB; free some space" in said
    assert (project / "artifacts/package/submission.pyz").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "place", ["/proc/a", "/proc/a/b/c", "file/a", "x" * 300, "x" * 240], ids=["proc", "deep", "file", "name", "partial"]
)
def test_place_that_nothing_can_be_written_to_is_found_by_trying(tmp_path, monkeypatch, place):
    """Root is told that it may write below /proc, and a name may be too long for what is written beside it first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^--out [/\w]{1,200} cannot be written: nothing can be made there \([\w ]+\); name another$"):
        files.check_writable(place, "--out")
    files.check_writable("new/deep/folder", "--out")
    files.check_writable("file", "--out", is_file=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ValueError, match=r"--json .* is a folder, and a file is written there"):
        files.check_writable(tmp_path, "--json", is_file=True)


def test_commands_look_at_the_place_of_what_they_write_before_they_work(project, capsys, monkeypatch):
    def said(ask, option):
        with pytest.raises(SystemExit) as ended:
            ask()
        line = capsys.readouterr().err
        assert ended.value.code == 1 and line.count("\n") == 1 and f"{option} /proc/none cannot be written" in line, line

    def works(*_, **__):
        raise AssertionError("it worked before it looked")

    monkeypatch.setattr(submission, "audited", works)
    monkeypatch.setattr(adopt.convert, "to_safetensors", works)
    for option in ("--json", "--csv", "--markdown", "--html"):
        said(lambda option=option: submission.main(["folder", option, "/proc/none"]), option)
    (project / "main.py").write_text("")
    said(lambda: kit.main(["main.py", "--out", "/proc/none"]), "--out")
    said(lambda: adopt.main(["a.pt", "--convert", "/proc/none"]), "--convert")
    said(lambda: run_node("package", "--submission", "/proc/none"), "--submission")
