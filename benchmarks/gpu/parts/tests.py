"""The tests that are marked gpu; in the CPU form those that compare the attention back ends with the formula."""

import sys
from pathlib import Path

from benchmarks.gpu.context import Context

ROOT = Path(__file__).resolve().parents[3]
MARK = "pytest.mark.gpu"


class Outcomes:
    """A plug-in of pytest that counts what became of the tests, and keeps the last line of each failure."""

    def __init__(self):
        self.counts, self.failures = dict.fromkeys(("passed", "failed", "skipped"), 0), {}

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":  # a test may also fail or be skipped before or after its call
            self.counts[report.outcome] += 1
        if report.failed:
            self.failures[report.nodeid] = str(report.longrepr).strip().splitlines()[-1]


def measure(context: Context) -> None:
    import pytest

    # only these files, because the others import packages that a machine for GPUs need not have
    paths = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if MARK in path.read_text(encoding="utf-8")]
    chosen = ["-m", "not gpu", "-k", "equal_the_formula"] if context.is_small else ["-m", "gpu"]
    outcomes = Outcomes()
    sys.path.insert(0, str(ROOT))
    # no plug-ins of the machine's Python, and no options of pyproject.toml, which ask for pytest-xdist
    options = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
    code = pytest.main([*options, *chosen, *paths], plugins=[outcomes])
    for outcome, count in outcomes.counts.items():
        holds = {"passed": count > 0, "failed": count == 0}.get(outcome)
        context.note(outcome, count, "tests", goal={"passed": "1 or more", "failed": "0"}.get(outcome, ""), holds=holds)
    for test, line in outcomes.failures.items():
        context.note(test, line, holds=False)
    if code > 1:  # 1: tests failed, which the rows say
        raise RuntimeError(f"pytest ended with code {int(code)}; the log has its reason")
