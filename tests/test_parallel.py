"""Work on several processes: order, errors, memory, and no worker that outlives its parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.lib.node import parallel
from tests.conftest import ROOT
from tests.tasks import die, square


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_and_an_error_in_its_turn(processes):
    got = []
    with pytest.raises(ValueError, match="thirteen"):
        for value in parallel.in_order(square, range(20), processes=processes):
            got.append(value)
    assert got == [n * n for n in range(13)]


def test_no_more_tasks_are_taken_than_are_under_way():
    taken = []
    results = parallel.in_order(square, (taken.append(n) or n for n in range(12)), processes=2)
    next(results)
    assert len(taken) <= 4
    results.close()


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import os, sys, time\nfrom stages.lib.node import parallel\nfrom tests.tasks import report_and_sleep\n"
        "if __name__ == '__main__':\n    list(parallel.in_order(report_and_sleep, [sys.argv[1]] * 2, processes=2))\n"
    )
    (tmp_path / "parent.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_number_of_workers_that_cannot_be_is_a_sentence(monkeypatch, value):
    monkeypatch.setenv("CADDIE_WORKERS", value)
    with pytest.raises(ValueError, match="CADDIE_WORKERS is"):
        parallel.workers()


def test_pool_whose_worker_dies_says_so():
    with pytest.raises(parallel.WorkerKilled, match="a worker process was killed, as happens when memory runs out"):
        list(parallel.in_order(die, range(3), processes=2))
