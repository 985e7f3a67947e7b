"""The search for better values: spaces, order of trials, what a kill leaves, and trials as experiments of DVC."""

import json
import re
import sys

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from stages.recipes import tune
from tests.conftest import ROOT
from tests.repository import run

TREE = {"train": {"rate": 0.03, "steps": 5, "loader": "flat", "seed": 1}, "prepare": {"source": "builtin", "path": ""}}
SPACE = ["train.rate=0.01:1.0:log", "train.steps=1:9", "train.loader=flat,documents"]
OWN = {"train.rate": 0.03, "train.steps": 5, "train.loader": "flat"}
ASKED = {"space": SPACE, "node": "train"}


def loss(number, values) -> float:
    return abs(values["train.rate"] - 0.3) + abs(values["train.steps"] - 7) / 10 + (values["train.loader"] == "flat")


def study(path, own=OWN, asked=ASKED) -> tuple[optuna.Study, dict]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    within = tune.space(SPACE, TREE)
    return tune.opened(path, asked, own, within), within


def tried(found: optuna.Study) -> list[dict]:
    return [trial.params for trial in found.get_trials(states=(TrialState.COMPLETE,))]


def test_space_is_of_the_parameters_kind():
    rate, steps, loader = tune.space(SPACE, TREE).values()
    assert isinstance(rate, optuna.distributions.FloatDistribution) and rate.log
    assert isinstance(steps, optuna.distributions.IntDistribution) and not steps.log
    assert loader.choices == ("flat", "documents")
    assert isinstance(tune.space(["train.rate=1:9"], TREE)["train.rate"], optuna.distributions.FloatDistribution)


@pytest.mark.parametrize(
    "text, part",
    [
        ("train.rat=0:1", "lacks 'rat'"),
        ("train.rate", "as PATH=LOW:HIGH"),
        ("train.rate=1:0", "less than the second"),
        ("train.rate=0:1:log", "above zero"),
        ("train.rate=0:1:linear", "LOW:HIGH:log"),
        ("train.rate=a:b", "with numbers"),
        ("train.loader=flat", "two different values"),
        ("train.loader=[1],2", "two different values"),
        ("train.rate=0:[1", "as in params.yaml"),
    ],
)
def test_a_wrong_space_is_one_sentence(text, part):
    with pytest.raises(ValueError, match=re.escape(part)):
        tune.space([text], TREE)


def test_search_begins_with_params_yaml_and_finds_better_values(tmp_path):
    found, within = study(tmp_path / "a.log")
    tune.search(found, within, loss, trials=40, seed=0)
    assert found.trials[0].params == OWN and found.best_value < 0.2 < loss(0, OWN)
    assert f"the values of params.yaml have {loss(0, OWN):.4f}. Each trial has one seed" in tune.verdict(found, OWN, 1)
    assert "| 0 | 1.4700 | 0.03 | 5 | flat |" in tune.table(found, "loss")


def test_values_outside_the_space_are_no_trial(tmp_path):
    found, within = study(tmp_path / "a.log", own=OWN | {"train.rate": 2.0})
    tune.search(found, within, loss, trials=2, seed=0)
    assert all(trial["train.rate"] <= 1 for trial in tried(found))


def test_a_killed_search_goes_on_with_the_same_values(tmp_path):
    whole, within = study(tmp_path / "whole.log")
    tune.search(whole, within, loss, trials=14, seed=3)

    def killed(number, values):
        if number == 9:
            raise KeyboardInterrupt
        return loss(number, values)

    half, _ = study(tmp_path / "half.log")
    with pytest.raises(KeyboardInterrupt):
        tune.search(half, within, killed, trials=14, seed=3)
    again, _ = study(tmp_path / "half.log")
    tune.go_on(again, lambda number, values: None)
    assert not again.get_trials(states=(TrialState.RUNNING,))
    tune.search(again, within, loss, trials=1, seed=3)
    assert tried(again) == tried(whole)[:10]


def test_an_experiment_that_had_ended_counts(tmp_path):
    found, within = study(tmp_path / "a.log")
    found.ask(within)
    tune.go_on(found, loss)
    assert found.trials[0].value == loss(0, OWN)


def test_three_failures_in_a_row_end_the_search(tmp_path):
    found, within = study(tmp_path / "a.log")
    with pytest.raises(ValueError, match="three trials failed"):
        tune.search(found, within, lambda number, values: float("nan") if number == 1 else None, trials=9, seed=0)
    assert len(found.trials) == 3 and not tried(found)


def test_another_search_of_the_same_name_is_refused(tmp_path):
    study(tmp_path / "a.log")
    with pytest.raises(ValueError, match="another node, so new ones could not be compared; set --name"):
        study(tmp_path / "a.log", asked=ASKED | {"node": "ema"})


STAGE = """
import json, pathlib, yaml
t = yaml.safe_load(open("params.yaml"))["train"]
out = pathlib.Path("artifacts/train/metrics.json")
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(json.dumps({"loss": abs(t["rate"] - 0.3) + t["seed"] / 100, "gpu": None}))
"""


def test_one_seed_that_is_asked_for_is_the_seed():
    assert tune.Experiments("mine", "train", "loss", [43])._changes({"train.rate": 0.1}, 43) == {"train.rate": 0.1, "train.seed": 43}


@pytest.mark.dvc
@pytest.mark.slow
def test_trials_are_experiments_with_each_seed(tmp_path):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TREE))
    (tmp_path / ".gitignore").write_text("/artifacts/\n/scratch/\n")
    node = {"cmd": f"{sys.executable} stage.py", "deps": ["stage.py"], "params": ["train"], "metrics": ["artifacts/train/metrics.json"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": node}}))
    for command in (("git", "init", "-q", "-b", "main"), ("dvc", "init", "-q"), ("git", "add", "-A"), ("git", "commit", "-qm", "start")):
        run(tmp_path, *command)
    search = (sys.executable, "-m", "stages.recipes.tune", "train.rate=0.01:1.0", "--key", "loss", "--seeds", "1", "3", "--trials")
    said = run(tmp_path, *search, "2", PYTHONPATH=str(ROOT))
    assert "| 0 | 0.2900 | 0.03 |" in said and "the values of params.yaml have 0.2900. Each trial has 2 seeds" in said
    assert "| 2 |" in run(tmp_path, *search, "1", PYTHONPATH=str(ROOT))
    table = json.dumps(json.loads(run(tmp_path, "dvc", "exp", "show", "--json")))
    assert all(f"tune-{trial}-seed-{seed}" in table for trial in range(3) for seed in (1, 3))
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == TREE  # one's own files stay as they are
    (tmp_path / "scratch/tune/tune.log").unlink()
    wrong = (*search[:3], "train.rate=0.05:1.0", *search[4:], "1")
    with pytest.raises(AssertionError, match="tune-0-seed-1 has other values, so it is of another search"):
        run(tmp_path, *wrong, PYTHONPATH=str(ROOT))
