"""The workflow that audits pull requests, its steps run here: folders that changed, a comment, an exit code; nothing is executed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests import repository, submission_folders
from tests.conftest import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/audit.yml").read_text(encoding="utf-8"))
RECORDS = "records/track_10min_16mb"


def steps(job: str) -> list[dict]:
    return WORKFLOW["jobs"][job]["steps"]


class Result(NamedTuple):
    code: int  # of the job
    comment: str
    posted: list[str]  # what gh was called with


class PullRequest:
    """A repository whose base has one submission. The test commits what the pull request changes."""

    def __init__(self, folder: Path):
        self.work = folder
        self.root = folder / "submission"
        (folder / "caddie").symlink_to(ROOT)
        submission_folders.write(self.root / RECORDS, name="2026-03-01_Old")
        repository.run(self.root, "git", "init", "-q", "-b", "main")
        self.commit()
        self.base = repository.run(self.root, "git", "rev-parse", "HEAD").strip()

    def commit(self) -> None:
        repository.run(self.root, "git", "add", "-A")
        repository.run(self.root, "git", "commit", "-qm", "change")

    def step(self, job: str, name: str, repository_name: str) -> int:
        """Run one step as a runner does: bash, which ends with the first command that fails."""
        step = next(step for step in steps(job) if step.get("name") == name)
        tools = self.work / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "gh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {self.work}/posted.txt\n')
        (tools / "gh").chmod(0o755)
        environment = {"BASE": self.base, "NUMBER": "1855", "REPOSITORY": repository_name, "GH_TOKEN": "none"}
        runner = {"GITHUB_WORKSPACE": str(self.work), "PATH": f"{tools}:{os.environ['PATH']}"}
        assert set(WORKFLOW["jobs"][job]["env"]) <= set(environment) and "${{" not in step["run"], (
            "an expression in a script is an injection"
        )
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.work / step.get("working-directory", "."),
            env=os.environ | environment | runner,
            capture_output=True,
            text=True,
            check=False,
        )
        assert name == "verdict" or done.returncode == 0, done.stderr
        return done.returncode

    def audited(self, repository_name: str = "somebody/caddie") -> Result:
        self.step("audit", "audit", repository_name)
        code = self.step("audit", "verdict", repository_name)
        self.step("comment", "comment", repository_name)
        return Result(code, (self.work / "comment.md").read_text(encoding="utf-8"), (self.work / "posted.txt").read_text().splitlines())


@pytest.fixture
def pull_request(tmp_path) -> PullRequest:
    return PullRequest(tmp_path)


def test_folder_that_a_pull_request_adds_is_audited_and_the_table_posted(pull_request):
    submission_folders.write(pull_request.root / RECORDS, name="2026-04-01_Ours")
    (pull_request.root / "README.md").write_text("not a folder")
    pull_request.commit()
    found = pull_request.audited()
    assert found.code == 0 and "Audit of 1 submission folders" in found.comment
    assert "| folder | verdict |" in found.comment and "2026-04-01\\_Ours" in found.comment and "Old" not in found.comment
    assert found.posted == [
        "pr", "comment", "1855", "--repo", "somebody/caddie", "--body-file", "comment.md", "--edit-last", "--create-if-none",
    ]  # fmt: skip


def test_what_is_proved_makes_the_job_fail_after_the_comment_is_written(pull_request):
    submission_folders.write(pull_request.root / RECORDS, name="2026-04-01_Large", size=16_000_001)
    submission_folders.write(pull_request.root / RECORDS, name="2026-04-02_Ours")
    pull_request.commit()
    found = pull_request.audited()
    assert found.code == 1 and "2 submission folders" in found.comment and "not legal" in found.comment and "16,000,001" in found.comment


def test_rulings_are_looked_up_only_where_the_numbers_mean_them(pull_request):
    submission_folders.write(pull_request.root / RECORDS, name="2026-04-01_Ours")
    pull_request.commit()
    assert "accepted" not in pull_request.audited().comment
    assert "accepted" in pull_request.audited("openai/parameter-golf").comment


def test_hostile_names_links_and_code_of_a_pull_request_do_nothing(pull_request):
    name = "2026-04-01_$(touch hurt) `touch hurt` @someone\n--pr"
    submission_folders.write(pull_request.root / RECORDS, name=name, script="open('hurt', 'w')\n")
    (pull_request.root / RECORDS / "2026-04-03_Link").symlink_to("/etc")
    pull_request.commit()
    found = pull_request.audited()
    assert "Audit of 1 submission folders" in found.comment and "@someone" not in found.comment and "/etc" not in found.comment
    assert not list(pull_request.work.rglob("hurt")) and not (ROOT / "hurt").exists()


def test_pull_request_without_a_folder_and_a_comment_that_is_too_long(pull_request):
    (pull_request.root / "records/README.md").write_text("x")
    pull_request.commit()
    assert pull_request.audited().comment.startswith("### Audit of 0 submission folders")
    for number in range(60):
        submission_folders.write(pull_request.root / RECORDS, name=f"2026-04-01_{number}_{'é' * 80}", size=16_000_001)
    pull_request.commit()
    found = pull_request.audited()
    assert found.code == 1 and 50_000 < len(found.comment.encode()) <= 60_000


def test_what_reads_a_pull_request_can_write_nothing_and_what_writes_reads_none():
    jobs = WORKFLOW["jobs"]
    assert WORKFLOW["permissions"] == {} and jobs["audit"]["permissions"] == {"contents": "read"}
    assert jobs["comment"]["permissions"] == {"pull-requests": "write"}
    assert not any("checkout" in step.get("uses", "") for step in steps("comment"))
    for step in steps("audit"):
        assert "checkout" not in step.get("uses", "") or step["with"]["persist-credentials"] is False
    assert [step["working-directory"] for step in steps("audit") if "working-directory" in step] == ["caddie"], "code is that of Caddie"


def test_the_step_that_installs_installs_what_the_audit_imports():
    install = next(step["run"] for step in steps("audit") if step.get("name") == "install")
    installed = {word.replace("-", "_").replace("pyyaml", "yaml") for word in install.split()}
    listing = "import sys, stages.audit.submission.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    own = [path.read_text() for path in (ROOT / "stages/audit/submission").rglob("*.py")]
    imported = {*loaded, *(name for text in own for name in re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))}
    known = {"numpy", "yaml", "pydantic", "annotated_types", "brotli", "zstandard", "pandas", "torch", "safetensors", "tqdm"}
    assert imported & known <= installed
    assert {name for name in imported if name.startswith("tree_sitter")} <= installed
