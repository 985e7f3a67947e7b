"""train.live: the curves of a running training in the files that DVC's users know, and no byte of the training changes."""

import csv
import json

import pytest
import yaml

from stages.train import checkpoints
from tests import repository
from tests.conftest import run_node


def curve(project, name: str) -> list[tuple[int, float]]:
    with open(project / f"dvclive/plots/metrics/{name}.tsv", newline="") as handle:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(handle, delimiter="\t")]


def own_curve(project, column: str) -> list[tuple[int, float]]:
    """What the stage itself wrote at the end."""
    with open(project / "artifacts/train/loss.csv", newline="") as handle:
        return [(int(row["step"]), float(row[column])) for row in csv.DictReader(handle) if row[column]]


@pytest.mark.slow
def test_curves_are_those_of_the_stage_also_after_a_kill_and_no_byte_of_the_weights_changes(project, tree, monkeypatch):
    weights = (project / "artifacts/train/model.safetensors").read_bytes()
    assert not (project / "dvclive").exists()  # off: nothing is written
    tree({"train.live": True, "train.checkpoint_seconds": 0.0})
    save = checkpoints.Folder.save

    def save_then_die(self, step, *state):
        save(self, step, *state)
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(checkpoints.Folder, "save", save_then_die)
        run_node("train")
    assert [step for step, _ in curve(project, "train_loss")] == [1, 2, 3, 4, 5]  # while it runs
    run_node("train")
    assert (project / "artifacts/train/model.safetensors").read_bytes() == weights
    for name in ("train_loss", "learning_rate_scale", "holdout_bits_per_byte"):
        assert curve(project, name) == own_curve(project, name)
    assert len(curve(project, "train_loss")) == 12 and len(curve(project, "holdout_bits_per_byte")) == 2
    assert sorted(json.loads((project / "dvclive/metrics.json").read_text())) == [
        "holdout_bits_per_byte", "learning_rate_scale", "step", "train_loss",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.dvc
def test_dvc_draws_the_curves_and_counts_four_metrics(finished, tmp_path):
    root = repository.committed(finished, tmp_path / "clone", without=())
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["train"]["live"] = True
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    before = json.loads(repository.run(root, "dvc", "metrics", "show", "--json"))
    repository.run(root, "dvc", "repro", "--single-item", "train")
    listed = json.loads(repository.run(root, "dvc", "plots", "show", "--json"))
    assert any("train_loss.tsv" in name for name in listed["data"])
    after = json.loads(repository.run(root, "dvc", "metrics", "show", "--json"))
    new = set(after[""]["data"]) - set(before[""]["data"])
    assert new == {"dvclive/metrics.json"} and len(after[""]["data"]["dvclive/metrics.json"]["data"]) == 4


@pytest.mark.slow
def test_long_run_has_a_bounded_number_of_points_of_the_loss_and_each_of_holdout(tmp_path, monkeypatch):
    from stages.train import live

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "POINTS", 20)
    curves = live.Curves(tmp_path / "dvclive", [], steps=1000)
    for step in range(1, 1001):
        curves.add({"step": step, "train_loss": 5.0, "learning_rate_scale": 1.0, "holdout_bits_per_byte": 2.0 if step == 333 else None})
    assert len(curve(tmp_path, "train_loss")) == 21 and curve(tmp_path, "holdout_bits_per_byte") == [(333, 2.0)]
