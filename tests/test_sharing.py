"""docs/together.md is true: its commands run as they stand there, in two clones with one git remote and one DVC remote."""

import re
import shlex
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import repository
from tests.conftest import ROOT

PAGE = ROOT / "docs/together.md"
pytestmark = pytest.mark.dvc


class Block(NamedTuple):
    """A sh block of the page, marked `<!-- clone: part -->`."""

    clone: str
    part: str
    commands: list[str]


def blocks(part: str) -> list[Block]:
    found = re.findall(r"^<!-- (\w+): (\w+) -->\n```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(clone, name, lines.splitlines()) for clone, name, lines in found if name == part]


class Pair:
    """Two clones of one repository, `first` with the finished pipeline. `address` is that of the DVC remote."""

    def __init__(self, folder: Path, finished: Path, address: str, **environment: str):
        self.address, self.environment = address, environment
        self.first = repository.committed(finished, folder / "first", without=())
        origin = folder / "origin.git"
        repository.run(folder, "git", "clone", "-q", "--bare", str(self.first), str(origin))
        repository.run(self.first, "git", "remote", "add", "origin", str(origin))
        repository.run(self.first, "git", "fetch", "-q", "origin")
        repository.run(self.first, "git", "branch", "-q", "--set-upstream-to", "origin/main")
        repository.run(folder, "git", "clone", "-q", str(origin), str(folder / "second"))
        self.second = folder / "second"

    def run(self, clone: str, command: str) -> str:
        """One line of the page. Only the address of the DVC remote is filled in."""
        words = [self.address if word == "URL" else word for word in shlex.split(command, comments=True)]
        if words[:3] == ["dvc", "exp", "push"]:
            self._wait(clone)
        return repository.run(getattr(self, clone), *words, **self.environment)

    def follow(self, part: str) -> dict[str, str]:
        """All lines of a part, in order. Returns what each clone said."""
        said = {"first": "", "second": ""}
        for block in blocks(part):
            for command in block.commands:
                said[block.clone] += self.run(block.clone, command)
        return said

    def _wait(self, clone: str) -> None:
        """What the page asks for: repeat `dvc queue status` until all experiments have run."""
        deadline = time.monotonic() + 1200
        while re.search(r"Queued|Running", table := self.run(clone, "dvc queue status")):
            assert time.monotonic() < deadline, table
            time.sleep(2)
        assert "Failed" not in table, table


def change(clone: Path, old: str, new: str) -> None:
    text = (clone / "params.yaml").read_text()
    assert text.count(old) == 1
    (clone / "params.yaml").write_text(text.replace(old, new))


@pytest.fixture
def bucket():
    """The environment of a real S3 server with one empty bucket."""
    server = pytest.importorskip("moto.server", reason="make test-s3 installs an S3 server and the client of DVC")
    pytest.importorskip("dvc_s3", reason="make test-s3 installs an S3 server and the client of DVC")
    import boto3

    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    who = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing", "region_name": "us-east-1"}
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": who["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": who["aws_secret_access_key"],
        "AWS_DEFAULT_REGION": who["region_name"],
    }
    client = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], **who)
    client.create_bucket(Bucket="bucket")
    yield environment, client
    started.stop()


def test_every_block_but_the_last_is_run_by_a_test():
    page = PAGE.read_text(encoding="utf-8")
    parts = list(dict.fromkeys(re.findall(r"^<!-- \w+: (\w+) -->$", page, re.MULTILINE)))
    assert parts == ["share", "runs", "experiment", "sweep", "table"]
    assert page.count("```sh") == sum(len(blocks(part)) for part in parts) + 1 and "dvc add data/my_texts" in page.rpartition("```sh")[2]


def shared(pair: Pair) -> None:
    """A run, then a run without a dvc.lock in git, reach the second clone, where nothing runs."""
    said = pair.follow("share")
    assert "Running stage" not in said["second"] and "Data and pipelines are up to date." in said["second"]
    for name in ("submission.pyz", "metrics.json"):
        assert (pair.first / "artifacts/package" / name).read_bytes() == (pair.second / "artifacts/package" / name).read_bytes()
    values = "  - quantize\n  window: 64", "  - quantize\n  window: 32"
    change(pair.first, *values)
    assert "Running stage 'plain_score@train'" in pair.run("first", "dvc repro")
    change(pair.second, *values)
    said = pair.follow("runs")["second"]
    assert "Stage 'plain_score@train' is cached - skipping run" in said and "Running stage" not in said
    assert (pair.first / "artifacts/report/metrics.json").read_bytes() == (pair.second / "artifacts/report/metrics.json").read_bytes()


@pytest.mark.slow
def test_nobody_runs_again_what_is_in_a_shared_folder(finished, tmp_path):
    pair = Pair(tmp_path, finished, str(tmp_path / "store"))
    shared(pair)
    assert any((tmp_path / "store/files").rglob("*"))


@pytest.mark.slow
def test_nobody_runs_again_what_is_on_an_s3_server(finished, tmp_path, bucket):
    environment, client = bucket
    shared(Pair(tmp_path, finished, "s3://bucket/caddie", **environment))
    found = client.list_objects_v2(Bucket="bucket")
    assert found["KeyCount"] > 50 and all(entry["Key"].startswith("caddie/") for entry in found["Contents"])


@pytest.mark.large  # DVC's queue workers need minutes, and more on a busy machine
def test_experiment_and_a_shared_sweep_meet_in_one_table(finished, tmp_path):
    pair = Pair(tmp_path, finished, str(tmp_path / "store"))
    with pytest.raises(AssertionError):
        pair.run("first", blocks("experiment")[0].commands[0])  # the remote is not committed, and the first command says so
    pair.follow("share")
    said = pair.follow("experiment")
    assert re.search(r"\d+ files? uploaded", said["first"]) and "Changes for experiment 'final' have been applied" in said["second"]
    assert "average: final" in (pair.second / "params.yaml").read_text()
    for name in ("package/submission.pyz", "report/metrics.json"):
        assert (pair.first / "artifacts" / name).read_bytes() == (pair.second / "artifacts" / name).read_bytes()
    assert "Running stage" not in pair.run("second", "dvc repro")
    for clone in (pair.first, pair.second):
        repository.run(clone, "git", "restore", "params.yaml", "dvc.lock")
        repository.run(clone, "dvc", "checkout", "-q")
    pair.follow("sweep")
    said = pair.follow("table")["first"]
    assert all(name in said for name in ("final", "first-1", "first-2", "second"))
    names = repository.run(pair.first, "dvc", "exp", "list", "--name-only").split()
    scores = {name: pair.run("first", f"dvc metrics show {name} --md") for name in names}
    assert len(set(scores.values())) == len(scores) == 4
    shutil.rmtree(pair.second)  # the results are here now
