"""Other machines: file systems without locks, names that do not resolve, what macOS lacks. A stage works, or says in a sentence why not."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from stages.lib.node import launch, parallel, scratch
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


@pytest.mark.parametrize("place", ["nobody-knows-me.invalid", "127.0.0.1"])
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
    command = ["make", "--file", str(ROOT / "Makefile"), target]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


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
    for command in (["init", "-q", "a"], ["-C", "a", "add", "."], ["-C", "a", "commit", "-qm", "all"], ["clone", "-q", "a", "b"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    assert not any(b"\r" in (tmp_path / "b" / name).read_bytes() for name in ("Makefile", "stages/compress/install_programs.sh"))
