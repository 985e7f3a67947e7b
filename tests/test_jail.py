"""The guard around an artifact: what a submission needs is allowed, everything else is refused and reported."""

import json
import zipfile

import numpy as np
import pytest

from stages.lib.referee import artifact

SCRIPT = """
import json, os, sys
from pathlib import Path

def attempt(what):
    try:
        what()
        return "allowed"
    except PermissionError as error:
        return "refused" if "an artifact may use nothing but itself" in str(error) else repr(error)
    except Exception as error:
        return repr(error)

def call_libc():
    import ctypes
    ctypes.CDLL(None).open

attempts = {
    "own file": lambda: open("submission.pyz", "rb").read(1),
    "own folder": lambda: open("note", "w").write("x"),
    "import": lambda: __import__("sqlite3"),
    "installation": lambda: open(os.__file__).read(),
    "null": lambda: open("/dev/null", "w").write("x"),
    "val by its path": lambda: open(VAL).read(),
    "val by a link": lambda: (os.symlink(VAL, "link"), open("link").read()),
    "val by climbing": lambda: open(os.path.relpath(VAL)).read(),
    "val by os.open": lambda: os.open(VAL, os.O_RDONLY),
    "val by sqlite": lambda: __import__("sqlite3").connect(VAL),
    "cache in /tmp": lambda: open("/tmp/caddie-cache", "w"),
    "cache in memory": lambda: open("/dev/shm/caddie-cache", "w"),
    "cache in the installation": lambda: open(os.__file__, "a"),
    "folders": lambda: os.listdir("/tmp"),
    "other processes": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "network": lambda: __import__("socket").socket(),
    "names": lambda: __import__("socket").getaddrinfo("localhost", 80),
    "programs": lambda: __import__("subprocess").run(["cat", VAL]),
    "shell": lambda: os.system("cat " + VAL),
    "fork": lambda: os.fork(),
    "C": call_libc,
}
print(json.dumps({name: attempt(what) for name, what in attempts.items()}))
"""
ALLOWED = {"own file", "own folder", "import", "installation", "null"}


@pytest.fixture
def folder(tmp_path):
    """A submission that does nothing but try, and a val file that it should not see."""
    val = tmp_path / "val.bin"
    val.write_bytes(b"val")
    with zipfile.ZipFile(tmp_path / "submission.pyz", "w") as archive:
        archive.writestr("__main__.py", f"VAL = {str(val)!r}\n{SCRIPT}")
    with artifact._Folder(tmp_path / "submission.pyz") as folder:
        yield folder


def test_artifact_may_use_itself_and_the_installation_and_nothing_else(folder):
    assert folder.run(["run"], {}, echo=False) == ""
    found = json.loads((folder.path / "stdout").read_text())
    assert {name for name, result in found.items() if result == "allowed"} == ALLOWED, found
    assert {result for name, result in found.items() if name not in ALLOWED} == {"refused"}, found
    refused = folder.refused()
    assert len(refused) >= 12 and any(what.endswith("val.bin") for what in refused) and "os.system" in refused


def test_what_was_refused_is_part_of_the_result(finished):
    (result,) = artifact.score(
        finished / "artifacts/package/submission.pyz",
        [np.array([1, 5, 6, 7])],
        evaluator="sliding",
        options={"window": 64, "stride": 32, "batch": 32},
    )
    assert result.refused == () and result.commits.tolist() == [[1, 3, 0]]
