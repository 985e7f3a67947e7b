"""Search for better values of parameters: Optuna chooses the next ones from the results so far, and each trial is an experiment of DVC.

    python -m stages.recipes.tune train.matrix_learning_rate=0.02:0.1:log train.muon.momentum=0.85:0.97
    python -m stages.recipes.tune model.num_layers=1:4 --node plain_score@quantize --key bits_per_byte --trials 12 --seeds 1 2
    python -m stages.recipes.tune train.loader=shuffled,documents --name loader

A parameter gets a range LOW:HIGH (of whole numbers if its own value and both ends are), a range in which each factor is as likely
(LOW:HIGH:log), or some values (A,B,C). Trial 0 has the values of params.yaml. What counts is a metric of one node, the less the better; by
default the loss on holdout after training. Experiments are called NAME-0, NAME-1, ... and `make show` lists them. The same command goes on
where a killed one stopped, and does as many trials more as it is told. Trials are chosen by the tree-structured Parzen estimator of Optuna
(Bergstra and others, 2011), from --seed, the number of the trial and the results before it alone.
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from stages.lib.dvc import revisions
from stages.lib.node import command, files, params
from stages.lib.node.params import require
from stages.recipes import catalog

ROOT, FOLDER = Path(), Path("scratch/tune")
SHOWN = 10  # rows of the table


def space(texts: list[str], tree: dict) -> dict[str, BaseDistribution]:
    """The distribution of each parameter by its path in params.yaml. ValueError names what is wrong."""
    found = {}
    for text in texts:
        path, _, spec = text.partition("=")
        require(bool(spec) and path not in found, f"{text!r}: write each parameter once, as PATH=LOW:HIGH, PATH=LOW:HIGH:log or PATH=A,B")
        found[path] = _distribution(path, spec, params.lookup(tree, path))
    return found


def _distribution(path: str, spec: str, own) -> BaseDistribution:
    if ":" not in spec:
        values = [_value(part) for part in spec.split(",")]
        plain = all(isinstance(value, str | int | float | bool | None) for value in values)
        require(plain and len(set(values)) > 1, f"{path}={spec}: a choice needs at least two different values, such as {path}=A,B")
        return CategoricalDistribution(values)
    low, high, *more = (_value(part) for part in spec.split(":"))
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in (low, high))
    require(numbers and more in ([], ["log"]), f"{path}={spec}: a range is LOW:HIGH or LOW:HIGH:log, with numbers such as 0.01 or 1.0e-5")
    require(low < high and (low > 0 or not more), f"{path}={spec}: the first number must be less than the second, and with log above zero")
    whole = all(type(value) is int for value in (low, high, own))
    return (IntDistribution if whole else FloatDistribution)(low, high, log=bool(more))


def _value(text: str):
    """A value as params.yaml would have it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{text!r} is no value; write numbers and words as in params.yaml") from None


def opened(path: Path, asked: dict, own: dict, within: dict[str, BaseDistribution]) -> optuna.Study:
    """The study in this file. ValueError if it was begun with something else than `asked`. A new one begins with the values `own`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="tune", load_if_exists=True)
    begun = study.user_attrs.get("asked")
    if begun is None:
        study.set_user_attr("asked", asked)
        if all(_holds(distribution, own[path]) for path, distribution in within.items()):
            study.enqueue_trial(own)
    changed = [name for name in asked if begun is not None and begun.get(name) != asked[name]]
    require(not changed, f"the trials in {path} had another {' and another '.join(changed)}, so new ones could not be compared; set --name")
    return study


def _holds(distribution: BaseDistribution, value) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def search(study: optuna.Study, within: dict, loss: Callable[[int, dict], float | None], *, trials: int, seed: int) -> None:
    """Do so many trials. loss(number, values) is None if a trial fails; ValueError after three of them in a row."""
    failed = 0
    for _ in range(trials):
        done = [trial for trial in study.trials if trial.state.is_finished()]
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(done))  # a new one, so a killed search goes on with the same values
        trial = study.ask(within)
        state = _tell(study, trial.number, loss(trial.number, trial.params))
        failed = failed + 1 if state == TrialState.FAIL else 0
        require(failed < 3, "three trials failed one after the other; above is what DVC said of them")


def go_on(study: optuna.Study, finished: Callable[[int, dict], float | None]) -> None:
    """Settle trials that a killed search left: finished(number, values) is the loss if its experiments had ended; else they come next."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        found = finished(trial.number, trial.params)
        if found is None:
            study.enqueue_trial(trial.params)
        _tell(study, trial.number, found)


def _tell(study: optuna.Study, number: int, found: float | None) -> TrialState:
    state = TrialState.FAIL if found is None or not math.isfinite(found) else TrialState.COMPLETE
    return study.tell(number, found if state == TrialState.COMPLETE else None, state=state).state


class Experiments:
    """Trials as experiments of DVC in temporary folders, one for each seed."""

    def __init__(self, name: str, node: str, key: str, seeds: list[int]):
        self.name, self.node, self.key, self.seeds = name, node, key, seeds
        self.metrics = f"artifacts/{node.replace('@', '/')}/metrics.json"

    def loss(self, number: int, values: dict) -> float | None:
        """The mean over the seeds, or None if one of them fails."""
        for seed in self.seeds:
            changes = self._changes(values, seed)
            if self._read(self._called(number, seed), changes) is None:
                flags = catalog.flags(changes)
                print(f"trial {number}: dvc exp run --temp {shlex.join(flags)} {self.node}", file=sys.stderr, flush=True)
                words = ["dvc", "exp", "run", "--temp", "-n", self._called(number, seed), *shlex.split(catalog.own_text()), *flags]
                if subprocess.run([*words, self.node], stdout=sys.stderr, check=False).returncode:
                    return None
        return self.finished(number, values)

    def finished(self, number: int, values: dict) -> float | None:
        found = [self._read(self._called(number, seed), self._changes(values, seed)) for seed in self.seeds]
        return None if None in found else statistics.fmean(found)

    def _changes(self, values: dict, seed: int) -> dict:
        return values | {"train.seed": seed}

    def _called(self, number: int, seed: int) -> str:
        return f"{self.name}-{number}" + (f"-seed-{seed}" if len(self.seeds) > 1 else "")

    def _read(self, called: str, changes: dict) -> float | None:
        """The metric of an experiment; None if there is no such experiment. ValueError if it has other values."""
        import dvc.api  # takes half a second

        try:
            commit = revisions.resolved(called, root=ROOT)
        except ValueError:
            return None
        tree = yaml.safe_load(dvc.api.read("params.yaml", repo=str(ROOT.resolve()), rev=commit))
        same = all(params.lookup(tree, path) == value for path, value in changes.items())
        require(same, f"the experiment {called} has other values, so it is of another search; set --name, or: dvc exp remove {called}")
        metrics = json.loads(dvc.api.read(self.metrics, repo=str(ROOT.resolve()), rev=commit))
        numbers = [key for key, value in metrics.items() if isinstance(value, int | float)]
        require(self.key in numbers, f"{self.metrics} has no number {self.key!r}; it has {', '.join(numbers)}")
        return float(metrics[self.key])


def table(study: optuna.Study, key: str) -> str:
    """The best trials, and trial 0."""
    ended = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: (trial.value, trial.number))
    shown = ended[:SHOWN] + [trial for trial in ended[SHOWN:] if trial.number == 0]
    names = list(ended[0].params)
    lines = [f"| trial | {key} | {' | '.join(names)} |", "|---:|---:|" + "---:|" * len(names)]
    lines += [f"| {trial.number} | {trial.value:.4f} | {' | '.join(map(_short, trial.params.values()))} |" for trial in shown]
    return "\n".join(lines)


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdict(study: optuna.Study, own: dict, num_seeds: int) -> str:
    best = study.best_trial
    first = [trial for trial in study.get_trials(states=(TrialState.COMPLETE,)) if trial.params == own]
    against = f"; the values of params.yaml have {first[0].value:.4f}" if first else ""
    seeds = "one seed" if num_seeds == 1 else f"{num_seeds} seeds"
    return (
        f"Trial {best.number} is the best: {best.value:.4f}{against}. Each trial has {seeds}, and the best of many looks better than it "
        f"is: compare it on new seeds. A whole run with its values: dvc exp run {shlex.join(catalog.flags(best.params))}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stages.recipes.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", nargs="+", metavar="PATH=VALUES", help="a parameter and its range or its values")
    parser.add_argument("--trials", type=int, default=20, help="how many to do now (default: %(default)s)")
    parser.add_argument("--node", default="train", help="the node of dvc.yaml whose metric counts (default: %(default)s)")
    parser.add_argument("--key", default="holdout_bits_per_byte", help="the number in its metrics.json (default: %(default)s)")
    parser.add_argument("--name", default="tune", help="of the experiments, NAME-0 and so on (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", help="training seeds of every trial (default: the one of params.yaml)")
    parser.add_argument("--seed", type=int, default=0, help="of the search itself (default: %(default)s)")
    chosen = parser.parse_args(argv)
    with command.sentences("tune"):
        tree = params.read(ROOT / "params.yaml")
        within, seeds = space(chosen.space, tree), chosen.seeds or [tree["train"]["seed"]]
        require(chosen.trials > 0 and len(set(seeds)) == len(seeds), "--trials must be at least 1, and each of --seeds must differ")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        commit = revisions.resolved("HEAD", root=ROOT)
        asked = {"commit": commit, "space": sorted(chosen.space), "node": chosen.node, "metric": chosen.key, "seeds": seeds}
        asked["params.yaml"] = files.sha256(ROOT / "params.yaml")
        own = {path: params.lookup(tree, path) for path in within}
        experiments = Experiments(chosen.name, chosen.node, chosen.key, seeds)
        study = opened(ROOT / FOLDER / f"{chosen.name}.log", asked, own, within)
        go_on(study, experiments.finished)
        search(study, within, experiments.loss, trials=chosen.trials, seed=chosen.seed)
        require(any(trial.state == TrialState.COMPLETE for trial in study.trials), "no trial ended; above is what DVC said of them")
        print(table(study, chosen.key), verdict(study, own, len(seeds)), sep="\n\n")


if __name__ == "__main__":
    main()
