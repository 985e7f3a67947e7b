"""Other machines: file systems without locks, names that do not resolve, full disks, what macOS lacks. A stage works, or says why not."""

import codecs
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml

from stages.compress import stale
from stages.lib.node import command, files, launch, parallel, scratch, tensors
from stages.prepare import local
from stages.runtime import entry
from tests.conftest import ROOT, run_node


def test_every_lock_is_one_that_nfs_gives(project, monkeypatch):
    """NFS gives an exclusive lock only for a file that is open for writing (flock(2)); a stage asks for nothing else."""

    def on_nfs(file, operation):
        number = file if isinstance(file, int) else file.fileno()
        if operation & fcntl.LOCK_EX and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        locked.append(number)

    locked = []
    monkeypatch.setattr(fcntl, "flock", on_nfs)
    for node in ("ema", "train"):
        run_node(node)
    assert locked


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_a_sentence(tmp_path, monkeypatch, reason):
    def refuse(file, operation):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ValueError, match=r"cannot be locked .* move scratch/"), scratch.Folder(tmp_path / "train/key").locked():
        pass


def test_lock_of_a_folder_that_its_owner_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Between opening the lock file and locking it, the process that held the lock has removed the folder."""
    folder, taken = scratch.Folder(tmp_path / "train/key"), []

    def lock(file, operation):
        if not taken:
            folder.remove()
        taken.append(file)

    monkeypatch.setattr(fcntl, "flock", lock)
    with folder.locked():
        assert len(taken) == 2 and (folder.path / "lock").exists()


@pytest.mark.parametrize("place", ["nobody-knows-me.invalid", pytest.param("127.0.0.1", marks=pytest.mark.slow)])
def test_processes_that_cannot_meet_say_where_and_give_up(monkeypatch, capsys, place):
    """The first place has no address, and nobody answers at the second one."""
    meeting = {"MASTER_ADDR": place, "MASTER_PORT": "9", "RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1"}
    for name, value in meeting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "MEETING", timedelta(seconds=1))
    with pytest.raises(ValueError, match=f"could not meet at {place}:9 .*--local-addr"), launch.world("cpu", threads=1):
        pass
    assert f"caddie train: 2 processes meet at {place}:9" in capsys.readouterr().err


def test_number_of_workers_without_what_macos_lacks(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("CADDIE_WORKERS", raising=False)
    assert parallel.workers() == os.cpu_count()


@pytest.mark.parametrize("node, variant", [("calibrate", ()), ("quantize", ()), ("plain_score", ("train",))])
def test_gpu_of_a_mac_that_is_not_there_is_a_sentence(project, tree, capsys, node, variant):
    tree({f"{node}.device": "mps"})
    with pytest.raises(SystemExit):
        run_node(node, *variant)
    assert f"{node}.device is mps, but torch sees no GPU of a Mac; set it to auto or cpu" in capsys.readouterr().err


@pytest.mark.parametrize("error", [NotImplementedError("aten::x is not implemented for the MPS device"), TypeError("no float64")])
def test_kernel_that_a_mac_lacks_is_a_sentence(monkeypatch, error):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    threads = torch.get_num_threads()
    try:
        with (
            pytest.raises(ValueError, match=r"lacks a kernel on mps .*; set ema\.device to cpu"),
            launch.world("mps", section="ema") as world,
        ):
            assert world.device == torch.device("mps")
            raise error
        assert launch.device_type("auto") == "cpu"
    finally:
        torch.set_num_threads(threads)


def of_two_processes(module: str, **environment: str) -> subprocess.CompletedProcess:
    begin = f"from stages.lib.node import command, launch\nwith command.sentences('x'):\n    launch.relaunched(2, {module!r}, 'cpu')"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-c", begin], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_process_that_ends_is_named_in_a_sentence():
    done = of_two_processes("stages.nothing")
    assert done.returncode == 1 and "starting 2 processes, which meet at 127.0.0.1" in done.stderr
    assert "caddie x: process" in done.stderr and "ended with exit code 1; what it said is above" in done.stderr


def make(folder: Path, target: str, **environment: str) -> subprocess.CompletedProcess:
    words = ["make", "--file", str(ROOT / "Makefile"), target]
    return subprocess.run(words, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


def test_checkout_of_another_owner_stops_the_set_up_with_the_way_out(tmp_path):
    """git refuses such a checkout, and what it refuses must not be taken for a folder without git, where DVC is set up without it."""
    assert make(tmp_path, "readable").returncode == 0, "an unpacked archive is no repository"
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert make(tmp_path, "readable").returncode == 0
    refused = make(tmp_path, "readable", GIT_TEST_ASSUME_DIFFERENT_OWNER="true")
    assert refused.returncode != 0 and f"git config --global --add safe.directory '{tmp_path}'" in refused.stdout


def test_checkout_has_line_ends_that_a_shell_reads_whatever_git_is_told(tmp_path):
    """With core.autocrlf, git would write CRLF, which no shell reads; .gitattributes overrules it."""
    for name in (".gitattributes", "Makefile", "stages/compress/install_programs.sh"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "a" / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a", "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    for words in (["init", "-q", "a"], ["-C", "a", "add", "."], ["-C", "a", "commit", "-qm", "all"], ["clone", "-q", "a", "b"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    assert not any(b"\r" in (tmp_path / "b" / name).read_bytes() for name in ("Makefile", "stages/compress/install_programs.sh"))


SAFETENSORS = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize("node", ["train", "ema", "calibrate"])
def test_full_disk_is_a_sentence_where_tensors_are_written(project, monkeypatch, capsys, node):
    def full(*arguments, **options):
        raise tensors.SafetensorError(SAFETENSORS)

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(SystemExit):
        run_node(node)
    assert f"caddie {node}: No space left on device while writing" in capsys.readouterr().err


def test_full_disk_is_a_sentence_where_folders_are_copied_or_arrays_are_written(tmp_path, monkeypatch, capsys):
    def other(*paths):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def full(*paths):
        raise OSError(errno.ENOSPC, "No space left on device", *paths)

    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch()
    monkeypatch.setattr(os, "link", other)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(SystemExit), command.sentences("prepare"):
        files.link(tmp_path / "a", tmp_path / "c")
    assert "caddie prepare: No space left on device while writing" in capsys.readouterr().err
    with pytest.raises(SystemExit), command.sentences("evaluate"):
        raise OSError("100000 requested and 8176 written")
    assert "caddie evaluate: No space left on device while writing an output; free some space" in capsys.readouterr().err


@pytest.mark.parametrize("number, way_out", [(errno.EROFS, "run it in a checkout that may be written to"), (errno.EMFILE, "ulimit -n")])
def test_what_no_free_space_would_mend_is_given_its_own_way_out(capsys, number, way_out):
    with pytest.raises(SystemExit), command.sentences("ema"):
        raise OSError(number, os.strerror(number), "artifacts/ema")
    said = capsys.readouterr().err
    assert way_out in said and "free some space" not in said


@pytest.mark.parametrize("name", [5, True, "zlib.1", "my zip"])
def test_name_of_a_run_that_a_shell_or_yaml_reads_differently_is_a_sentence(project, capsys, name):
    tree = yaml.safe_load((project / "params.yaml").read_text())
    tree["compress"]["runs"][name] = tree["compress"]["runs"]["zlib_9"]
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(SystemExit):
        run_node("compress", *str(name).split())
    assert f"compress.runs has the name {name!r}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"compress\.runs has the name"):  # what `make repro` asks first
        stale.stale(tree, project / "artifacts/compress")


@pytest.mark.parametrize("variable, value", [("OMP_THREAD_LIMIT", "1"), ("OMP_DYNAMIC", "true")])
def test_environment_that_would_change_the_weights_is_refused(project, tree, monkeypatch, capsys, variable, value):
    tree({"calibrate.threads": 2})
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        run_node("calibrate")
    assert f"unset {variable}" in capsys.readouterr().err


@pytest.fixture
def packed(project, monkeypatch):
    """The command line of the project's artifact, in this process."""
    with zipfile.ZipFile(project / "artifacts/package/submission.pyz") as archive:
        inside = {Path(name).name: archive.read(name) for name in archive.namelist() if "/data/" in name}
    monkeypatch.setattr(entry, "read", inside.__getitem__)
    (project / "text").write_text("The text.")
    threads = torch.get_num_threads()
    yield entry.main
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("default")


def test_artifact_without_its_package_or_with_other_options_than_an_object_says_so(packed, monkeypatch, capsys):
    assert packed(["score", "text", "--options", "[]"]) == 1
    assert "submission.pyz: --options takes a JSON object" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "brotli", None)
    assert packed(["score", "text"]) == 1
    assert "install it with: pip install brotli" in capsys.readouterr().err


def test_one_text_file_as_the_whole_corpus_is_refused_with_what_can_be_done(project, tree, capsys):
    (project / "book.txt").write_text("The only document.\n" * 100)
    tree({"prepare.path": "book.txt"})
    with pytest.raises(SystemExit):
        run_node("prepare")
    said = capsys.readouterr().err
    assert "the corpus has 1 document, and train, holdout and val need one each" in said
    advice = re.search(r"mkdir (\S+) && split -l 100 --additional-suffix=\.txt FILE \1/,", said)
    (project / advice[1]).mkdir(parents=True)
    subprocess.run(["split", "-l", "10", "--additional-suffix=.txt", "book.txt", f"{advice[1]}/"], check=True)
    assert len(local.files(project / advice[1])) == 10


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "latin1"])
def test_text_in_another_encoding_is_refused_with_the_command_that_converts_it(tmp_path, encoding):
    content = (codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b"") + "Grüße".encode(encoding)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match="iconv") as refused:
        list(local.documents(tmp_path / "a.txt"))
    found = re.search(r"iconv -f (\S+) -t utf-8", str(refused.value))[1]
    assert content.decode(found) == "Grüße"
