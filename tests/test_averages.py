"""Averages kept along a run, and those that are put together after it."""

import json
import math

import numpy as np
import pytest
import torch

from stages.ema import posthoc_averages
from stages.lib.node import tensors
from stages.lib.training import averages
from stages.train.settings import AverageSettings
from tests.conftest import run_node

OFF = {"ema": (), "swa_every": 0, "swa_below": 0.2, "lawa_every": 0, "lawa_last": 3, "power": (), "power_snapshots": 4}


def walk(values, scales=None, **changes):
    """The averages of one scalar weight that starts at 1 and takes `values`."""
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    running = averages.Averages(module, AverageSettings(**(OFF | changes)))
    for step, value in enumerate(values, 1):
        torch.nn.init.constant_(module.weight, value)
        running.update(step, scales[step - 1] if scales else 1.0)
    return {name: weights["weight"].item() for name, weights in running.finished().items()}


def test_exponential_average_is_the_formula_for_every_decay():
    expected = {0.9: 1.0, 0.5: 1.0}
    for value in (2.0, -1.0, 4.0):
        expected = {decay: decay * e + (1 - decay) * value for decay, e in expected.items()}
    assert walk((2.0, -1.0, 4.0), ema=(0.9, 0.5)) == pytest.approx({"ema_0.9": expected[0.9], "ema_0.5": expected[0.5]})


def test_swa_is_the_mean_of_every_nth_weight_while_the_rate_is_low():
    found = walk(range(10), scales=[1.0] * 5 + [0.1] * 5, swa_every=2)
    assert found == pytest.approx({"swa": np.mean([5, 7, 9])})  # steps 6, 8 and 10
    assert walk(range(4), swa_every=2) == {}


def test_lawa_is_the_mean_of_the_last_kept_weights():
    assert walk(range(1, 12), lawa_every=2) == pytest.approx({"lawa": np.mean([6, 8, 10])})


def test_power_average_weighs_by_a_power_of_time():
    values = np.random.default_rng(0).normal(size=400)
    found = walk(values.tolist(), power=(6.94, 2.0))
    times = np.arange(1, 401)
    for gamma in (6.94, 2.0):
        assert found[f"power_{gamma:g}"] == pytest.approx(np.average(values, weights=times**gamma), abs=0.01)
        assert found[f"power_{gamma:g}"] == pytest.approx(posthoc_averages.power_profile(gamma, 400, total=400)[1:] @ values, abs=1e-5)


def test_widths_are_those_of_the_paper():
    assert posthoc_averages.relative_width(16.97) == pytest.approx(0.05, abs=1e-4)
    assert posthoc_averages.relative_width(6.94) == pytest.approx(0.10, abs=1e-4)


@pytest.mark.parametrize(
    "profile",
    [
        posthoc_averages.ema_profile(0.97, total=50),
        posthoc_averages.power_profile(3.0, 50, total=50),
        posthoc_averages.power_profile(3.0, 20, total=50),
        posthoc_averages.power_profile(3.0, 0, total=50),
    ],
)
def test_profiles_sum_to_one(profile):
    assert profile.sum() == pytest.approx(1.0) and (profile >= 0).all()


def test_put_together_averages_equal_the_tracked_ones():
    """A random walk of 1,000 steps, 16 snapshots of two power averages: Karras et al. report relative errors of a percent and below."""
    generator, total = np.random.default_rng(1), 1000
    weights = torch.from_numpy(generator.normal(size=(total + 1, 64)).cumsum(axis=0)).float()
    module = torch.nn.Linear(64, 1, bias=False)
    module.weight.data.copy_(weights[:1])
    tracked = averages.Averages(module, AverageSettings(**(OFF | {"ema": (0.98, 0.99, 0.995, 0.999), "power": (16.97, 6.94, 10.0, 4.0)})))
    profiles, snapshots = [], []
    for step in range(total + 1):
        if step:
            module.weight.data.copy_(weights[step : step + 1])
            tracked.update(step, 1.0)
        if step % (total // 16) == 0 or step == total:
            for gamma in (16.97, 6.94):
                profiles.append(posthoc_averages.power_profile(gamma, step, total=total))
                snapshots.append({"w": tracked.tensors[f"power_{gamma:g}"]["weight"].clone()})
    for name, wanted in (
        *((f"ema_{decay:g}", posthoc_averages.ema_profile(decay, total=total)) for decay in (0.98, 0.99, 0.995, 0.999)),
        *((f"power_{gamma:g}", posthoc_averages.power_profile(gamma, total, total=total)) for gamma in (10.0, 4.0)),
    ):
        synthesis = posthoc_averages.synthesise(wanted, profiles)
        found, direct = posthoc_averages.combine(synthesis, snapshots, half=frozenset())["w"], tracked.tensors[name]["weight"]
        assert synthesis.profile_error < 0.02, name
        assert (found - direct).norm() / (weights[-1] - direct).norm() < 0.02, name


def test_without_snapshots_the_way_out_is_named():
    with pytest.raises(ValueError, match=r"set train\.averages\.power"):
        posthoc_averages.synthesise(np.ones(3), [])


@pytest.mark.parametrize("average", ["final", "ema_0.95", "ema_0.98", "power_6.94"])
def test_ema_hands_on_exactly_the_chosen_weights(project, tree, average):
    tree({"ema.average": average})
    run_node("ema")
    source = "artifacts/train/model.safetensors" if average == "final" else f"artifacts/train/averages/{average}.safetensors"
    assert (project / "artifacts/ema/model.safetensors").read_bytes() == (project / source).read_bytes()


def test_ema_puts_together_a_decay_that_the_training_kept_too(project, tree):
    tree({"ema.average": "posthoc_ema_0.95"})
    run_node("ema")
    found, direct = (
        tensors.load(project / path)[0] for path in ("artifacts/ema/model.safetensors", "artifacts/train/averages/ema_0.95.safetensors")
    )
    final, _ = tensors.load(project / "artifacts/train/model.safetensors")
    distance = {
        name: math.sqrt(sum((a[key] - b[key]).square().sum().item() for key in a))
        for name, a, b in (("error", found, direct), ("size", final, direct))
    }
    assert distance["error"] < 0.03 * distance["size"]
    assert 0 < json.loads((project / "artifacts/ema/metrics.json").read_text())["profile_error"] < 0.03


def test_ema_chooses_the_candidate_that_is_best_on_holdout(project, tree):
    tree({"ema.average": "best", "ema.candidates": ["ema_0.95", "final", "posthoc_ema_0.9"]})
    run_node("ema")
    rows = [line.split(",") for line in (project / "artifacts/ema/candidates.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["ema_0.95", "final", "posthoc_ema_0.9"]
    best = min(rows, key=lambda row: float(row[1]))[0]
    assert json.loads((project / "artifacts/ema/metrics.json").read_text())["average"] == best == "final"  # after 12 steps


@pytest.mark.parametrize("average", ["ema_0.5", "posthoc_ema_x", "posthoc_swa_1", "posthoc_power_0"])
def test_unknown_average_is_named_with_those_there_are(project, tree, average, capsys):
    tree({"ema.average": average})
    with pytest.raises(SystemExit):
        run_node("ema")
    assert "the training has final, ema_0.95" in (said := capsys.readouterr().err) and "posthoc_ema_<decay" in said
