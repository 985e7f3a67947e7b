"""docs/first-hour.md is true: its commands run as they stand there, in their order, and print what it shows.

`make test-walk` runs it. Only the installation is not repeated: `make setup` finds the environment of the tests, in the place of `.venv`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import repository
from tests.conftest import ROOT

PAGE = ROOT / "docs/first-hour.md"
MOST_WORDS = 2_000  # ten minutes of reading at 200 words a minute


class Block(NamedTuple):
    """A sh block of the page, and the lines that it shows next."""

    commands: str
    shown: list[str]


def blocks(text: str) -> list[Block]:
    found = re.findall(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.MULTILINE | re.DOTALL)
    return [Block(commands, shown.splitlines()) for commands, shown in found]


def masked(line: str) -> str:
    """A line without its numbers, hashes and widths of columns, in which two runs may differ."""
    return re.sub(r"[\s=─-]+", " ", re.sub(r"\b[0-9a-f]{7,}\b|[\d.,:+e%±-]*\d[\d.,:%]*", "0", line)).strip()


def missing(shown: list[str], said: str) -> list[str]:
    """The lines that are shown and were not printed, in any order. A line may be cut by `...`."""
    printed = [masked(line) for line in said.splitlines()]
    return [
        line for line in shown if line.strip() != "..." and not any(there.startswith(masked(line.removesuffix("..."))) for there in printed)
    ]


def environment(folder: Path) -> Path:
    """A folder like .venv, with the programs of the tests' own environment, in which everything is installed."""
    made, own = folder / "environment", Path(sys.prefix)
    made.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        if (own / name).exists():
            (made / name).symlink_to(own / name)
    (made / ".installed").touch()
    return made


@pytest.mark.large  # several whole pipelines with their audits: minutes
@pytest.mark.dvc
def test_every_command_of_the_page_runs_and_prints_what_it_shows(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    listed = repository.run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-qm", "start")):
        repository.run(source, "git", *command)
    place, made = tmp_path, environment(tmp_path)
    os.utime(made / ".installed", (2**31, 2**31))  # younger than the clone's list of packages
    log = os.environ.get("FIRST_HOUR_LOG")
    for commands, shown in blocks(PAGE.read_text(encoding="utf-8")):
        script = commands.replace("<this repository>", str(source)).replace("source .venv/bin/activate", ":")
        done = subprocess.run(
            ["bash", "-e", "-c", f"{script}\npwd > {tmp_path}/place"],
            cwd=place,
            env=repository.ENVIRONMENT | {"VENV": str(made), "PATH": f"{made}/bin:{os.environ['PATH']}", "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3000,
            check=False,
        )
        if log:
            with open(log, "a", encoding="utf-8") as handle:
                handle.write(f"$ {script}{done.stdout}\n")
        assert done.returncode == 0, f"{commands}\n{done.stdout}"
        assert not (absent := missing(shown, done.stdout)), f"{commands}\n{absent}\n{done.stdout}"
        place = Path((tmp_path / "place").read_text().strip())


def test_page_shows_what_it_runs_and_reads_in_ten_minutes():
    text = PAGE.read_text(encoding="utf-8")
    found = blocks(text)
    assert text.count("```sh\n") == len(found) and text.count("```text\n") == sum(bool(block.shown) for block in found) >= 6
    assert len(text.split()) <= MOST_WORDS
    assert missing(["score 1.5 of", "a ..."], "score  2.75 of\nabc") == [] and missing(["other 3"], "score 3") == ["other 3"]
