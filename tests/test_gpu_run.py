"""`make gpu`: parts end in time, what is finished survives a kill, and the CPU form runs the same code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page, process, wheels
from benchmarks.gpu.parts import PARTS, seconds_of
from benchmarks.gpu.record import Record, code_key
from tests.conftest import ROOT

QUICK = ("nccl",)  # parts that take a few seconds on a CPU; equality runs in the test of a kill
PART = """
import os, subprocess, sys, time
def measure(context):
    context.note("first", 1, goal="1", holds=True)
    {rest}
"""

OF_TORCH = ("torch", "triton", "setuptools", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec")
# import all that the parts and the stages of their pipeline import, of no other packages than those named on the command line
IMPORTS = """
import importlib, sys
from importlib.metadata import packages_distributions
owners = packages_distributions()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        of = [owner.lower().replace("-", "_") for owner in owners.get(name.split(".")[0], [])]
        if of and not set(of) & set(sys.argv[1:]):
            raise ModuleNotFoundError(f"{name} is not in wheels.txt")
sys.meta_path.insert(0, Refuse())
from benchmarks.gpu import machine
from benchmarks.gpu.parts import PARTS, pipeline
for name in PARTS:
    importlib.import_module(f"benchmarks.gpu.parts.{name}")
for node in pipeline.STAGES:
    importlib.import_module(f"stages.{node.partition('@')[0]}.__main__")
import pydantic, pytest
print("imported")
"""


@pytest.fixture
def runner(tmp_path):
    return process.Runner(Path(sys.executable), tmp_path / "out", data=None)


@pytest.fixture
def part(tmp_path, monkeypatch):
    """Write a part of one's own, which notes a row and then does `rest`, and give its module's name."""

    def write(rest: str) -> str:
        (tmp_path / "own_part.py").write_text(PART.format(rest=rest))
        monkeypatch.setattr(process, "ROOT", f"{ROOT}{os.pathsep}{tmp_path}")
        return "own_part"

    return write


def lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def gone(number: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while lives(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not lives(number)


@pytest.mark.slow
def test_a_part_is_stopped_at_its_limit_with_all_that_it_started_and_keeps_its_rows(runner, part, tmp_path):
    rest = f"open('{tmp_path}/child', 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    found = runner.run("own", "cpu", 3.0, module=part(rest))
    assert found["status"] == "stopped" and "3 s" in found["error"] and found["seconds"] < 20
    assert [row["what"] for row in found["rows"]] == ["first"]
    assert gone(int((tmp_path / "child").read_text()))


def test_a_part_that_fails_leaves_the_last_line_of_its_traceback_and_its_rows(runner, part):
    found = runner.run("own", "cpu", 60.0, module=part("raise KeyError('of mine')"))
    assert (found["status"], found["error"]) == ("failed", "KeyError: 'of mine'") and len(found["rows"]) == 1


def test_killed_after_a_part_the_file_keeps_it_and_the_next_run_skips_it(tmp_path):
    """The process that is killed cannot clean up; the part that it had started ends all the same."""
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = ["--device", "cpu", "--out", str(out), "--parts", "equality", "precision"]
    with open(log, "w") as handle:
        running = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, stdout=handle, stderr=handle)
    deadline = time.monotonic() + 120
    children = []
    while "precision: at most" not in log.read_text() or not children:
        assert time.monotonic() < deadline and running.poll() is None, log.read_text()
        children = [int(number) for number in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = json.loads((out / "gpu.json").read_text())["parts"]
    assert kept.keys() == {"equality"} and kept["equality"]["status"] == "done" and len(kept["equality"]["rows"]) > 2
    assert "skipped" not in log.read_text() and all(gone(number) for number in children)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments[:-1]], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert f"equality: skipped, {out / 'gpu.json'} has it" in done.stdout and done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", QUICK)
def test_quick_part_runs_in_its_cpu_form_and_reaches_its_goals(runner, name):
    found = runner.run(name, "cpu", 120.0)
    assert found["status"] == "done", found["error"]
    assert {row["holds"] for row in found["rows"]} - {None} == {True}, found["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PARTS if name not in (*QUICK, "pipeline")])
def test_part_runs_in_its_cpu_form(runner, name):
    found = runner.run(name, "cpu", 900.0)
    assert found["status"] == "done" and found["rows"], found["error"]
    # how often the compiler starts again is a measurement, and none of this code
    assert name == "compiling" or {row["holds"] for row in found["rows"]} <= {None, True}, found["rows"]


@pytest.mark.slow
def test_pipeline_trains_and_its_artifact_is_scored(project, tmp_path):
    """On the text of the finished pipeline."""
    found = process.Runner(Path(sys.executable), tmp_path / "out", data=project / "artifacts").run("pipeline", "cpu", 900.0)
    assert found["status"] == "done", found["error"]
    score = [row for row in found["rows"] if row["what"].startswith("val, sliding")]
    assert len(score) == 1 and 1 < score[0]["value"] < 8


def test_pipeline_without_text_says_how_to_make_some(runner):
    found = runner.run("pipeline", "cpu", 60.0)
    assert found["status"] == "failed" and "make gpu-data" in found["error"]


def test_without_cuda_nothing_is_measured_and_the_cpu_form_is_named():
    with pytest.raises(ValueError, match="make gpu-cpu"):
        command.chosen("cuda", has_cuda=False)
    assert [command.chosen(device, has_cuda=True) for device in ("cuda", "cpu")] == ["cuda", "cpu"]


def test_results_of_another_machine_are_not_mixed(tmp_path):
    machine = {"gpu": "NVIDIA H200", "processor": "x", "torch": "2.13.0"}
    Record(tmp_path / "gpu.json").begin(machine, "cuda")
    Record(tmp_path / "gpu.json").begin(machine, "cuda")
    for other, device in ((machine | {"gpu": "NVIDIA H100"}, "cuda"), (machine, "cpu")):
        with pytest.raises(ValueError, match="another --out"):
            Record(tmp_path / "gpu.json").begin(other, device)


def test_a_part_is_done_again_if_it_failed_or_its_code_changed(tmp_path):
    record = Record(tmp_path / "gpu.json")
    record.begin({"gpu": None, "processor": "x", "torch": "2.13.0"}, "cpu")
    record.keep("nccl", {"status": "done", "code": "a"})
    record.keep("speed", {"status": "stopped", "code": "a"})
    again = Record(tmp_path / "gpu.json")
    again.begin(record.content["machine"], "cpu")
    assert [again.has(*case) for case in (("nccl", "a"), ("nccl", "b"), ("speed", "a"), ("sliding", "a"))] == [True, False, False, False]
    assert len(code_key(ROOT)) == 16


def test_each_part_gets_its_limit_and_leaves_to_the_others_what_is_promised():
    names = list(PARTS)
    assert sum(seconds.promised for seconds in PARTS.values()) <= 480 and all(1 < p.promised <= p.limit for p in PARTS.values())
    assert seconds_of("nccl", ["nccl"], left=480, minutes=8) == PARTS["nccl"].limit
    assert seconds_of("pipeline", names, left=99, minutes=8) == 99
    left = 480.0
    for name in names:  # every part takes all that it may: each still gets what it was promised
        seconds = seconds_of(name, names, left=left, minutes=8)
        assert seconds >= PARTS[name].promised
        left -= seconds
    assert left == 0


def test_the_page_names_the_machine_and_what_is_missing():
    rows = [{"what": "speed | of it", "value": 812345.6, "unit": "tokens/s", "goal": "1", "holds": False}]
    parts = {"speed": {"status": "failed", "error": "ValueError: no", "seconds": 3.0, "rows": rows}}
    content = {"device": "cuda", "machine": {"gpu": "NVIDIA H200", "driver": "570.1"}, "parts": parts}
    text = page.text(content)
    assert "| gpu | NVIDIA H200 |" in text and "| speed / of it | 812,346 | tokens/s | 1 | **no** |" in text and "`ValueError: no`" in text
    assert "0 of 11 parts are done, and 0 of 1 goals are reached" in text and "nccl (never run)" in text and not page.holds(content)
    assert "says anything about a GPU" in page.text(content | {"device": "cpu"})


def test_documentation_has_every_part_with_its_limit_and_every_wheel():
    text = (ROOT / "docs/gpu-run.md").read_text()
    limits = dict(re.findall(r"^\| (\w+) \| (\d+|the rest) \|", text, re.MULTILINE))
    assert limits == {name: "the rest" if name == "pipeline" else f"{seconds.limit}" for name, seconds in PARTS.items()}
    listed = re.findall(r"^([\w-]+)==", wheels.REQUIREMENTS.read_text(), re.MULTILINE)
    assert [name for name in listed if name not in text] == []


def test_wheels_are_those_of_the_constraints_and_all_that_the_parts_import():
    def pins(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().lower().replace("-", "_").splitlines() if "==" in line]
        return dict(line.strip().split("==") for line in lines)

    wanted, known = pins(wheels.REQUIREMENTS), pins(ROOT / "constraints.txt")
    assert {name: known[name] for name in wanted} == wanted and len(wanted) < 25
    done = subprocess.run([sys.executable, "-c", IMPORTS, *wanted, *OF_TORCH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "imported\n", done.stderr


def test_command_needs_only_the_standard_library_before_the_wheels_are_installed():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.gpu import __main__; __main__.main(['--list'])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(PARTS), done.stderr


def test_folder_without_wheels_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"is no folder; docs/gpu-run\.md"):
        wheels.installed(tmp_path / "none", tmp_path / "python")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be installed"):
        wheels.installed(tmp_path / "empty", tmp_path / "python")
