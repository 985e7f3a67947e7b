"""Optimizer, schedule, averages, resuming, several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from stages.lib import averages, checkpoints, launch, tensors
from stages.lib.optim.muon import Muon, orthogonalise
from stages.runtime.model.gpt import GPT
from stages.train import loop, schedule
from tests.conftest import ROOT, run_node


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_singular_vectors(shape):
    generator, rank = torch.Generator().manual_seed(0), min(shape)
    u = torch.linalg.qr(torch.randn(3, shape[0], rank, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(3, shape[1], rank, generator=generator)).Q
    out = orthogonalise(u @ torch.diag(torch.linspace(0.1, 1.0, rank)) @ v.mT)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.6 and values.max() < 1.25
    turned = u.mT @ out @ v  # diagonal in the basis of the input's singular vectors
    assert (turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4


def test_orthogonalise_does_not_depend_on_scale():
    update = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonalise(update), orthogonalise(1000 * update), atol=1e-4)


def test_muon_step_is_the_formula():
    weight = torch.nn.Parameter(torch.randn(12, 6, generator=torch.Generator().manual_seed(1)))
    start, gradient = weight.detach().clone(), torch.randn(12, 6, generator=torch.Generator().manual_seed(2))
    optimizer, buffer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.2), torch.zeros(12, 6)
    expected = start
    for _ in range(3):
        weight.grad = gradient
        optimizer.step()
        buffer = 0.9 * buffer + gradient
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * 2**0.5 * orthogonalise((gradient + 0.9 * buffer)[None])[0]
    assert torch.allclose(weight, expected, atol=1e-6)


def test_matrices_of_one_shape_are_updated_as_if_alone():
    gradients = [torch.randn(6, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    together = [torch.nn.Parameter(torch.zeros(6, 6)) for _ in gradients]
    alone = [torch.nn.Parameter(torch.zeros(6, 6)) for _ in gradients]
    for weight, gradient in zip(together + alone, gradients * 2, strict=True):
        weight.grad = gradient
    Muon(together, lr=0.1, momentum=0.9, weight_decay=0.0).step()
    for weight in alone:
        Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("fraction, scale", [(0.0, 1.0), (0.29, 1.0), (0.65, 0.5), (0.93, 0.1), (0.999, 0.1), (1.2, 0.1)])
def test_schedule_is_constant_then_linear_then_at_its_floor(fraction, scale):
    assert schedule.scale(fraction, warmdown=0.7, floor=0.1) == pytest.approx(scale)


def test_momentum_warms_up_linearly():
    assert [schedule.momentum(s, start=0.8, end=0.9, warmup_steps=10) for s in (0, 5, 10, 99)] == pytest.approx([0.8, 0.85, 0.9, 0.9])


def test_average_is_the_formula_for_every_decay():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    running = averages.Averages(module, (0.9, 0.5))
    expected = {0.9: 1.0, 0.5: 1.0}
    for value in (2.0, -1.0, 4.0):
        torch.nn.init.constant_(module.weight, value)
        running.update()
        expected = {d: d * e + (1 - d) * value for d, e in expected.items()}
    for decay, value in expected.items():
        assert running.tensors[averages.name(decay)]["weight"].item() == pytest.approx(value)


def test_training_twice_gives_the_same_bytes(project):
    first = {p.name: p.read_bytes() for p in (project / "artifacts/train").rglob("*.safetensors")}
    run_node("train")
    assert first == {p.name: p.read_bytes() for p in (project / "artifacts/train").rglob("*.safetensors")}


def test_training_lowers_the_loss_and_leaves_no_checkpoints(finished):
    metrics = json.loads((finished / "artifacts/train/metrics.json").read_text())
    assert metrics["loss_nats"] < np.log(384) - 0.5 and metrics["steps"] == 12
    assert not list((finished / "scratch/train").iterdir())


@pytest.mark.parametrize("kill_after", [3, 8])
def test_killed_training_continues_to_the_same_bytes(project, tree, kill_after):
    tree({"train.checkpoint_seconds": 0.0})  # a checkpoint after every step
    expected = (project / "artifacts/train/model.safetensors").read_bytes()
    (project / "artifacts/train/model.safetensors").unlink()
    trainer = subprocess.Popen([sys.executable, "-m", "stages.train"], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=project,
                               stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((project / "scratch/train").glob(f"*/step_{kill_after:09d}.safetensors")) and trainer.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.002)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    assert not (project / "artifacts/train/model.safetensors").exists()
    run_node("train")
    assert (project / "artifacts/train/model.safetensors").read_bytes() == expected


def test_checkpoint_of_other_parameters_is_not_picked_up(project, tree, monkeypatch, capsys):
    class Killed(Exception):
        pass

    def save_then_die(self, step, *state):
        save(self, step, *state)
        if step == 2:
            raise Killed

    save = checkpoints.Folder.save
    tree({"train.checkpoint_seconds": 0.0})
    monkeypatch.setattr(checkpoints.Folder, "save", save_then_die)
    with pytest.raises(Killed):
        run_node("train")
    monkeypatch.undo()
    monkeypatch.chdir(project)
    tree({"train.matrix_learning_rate": 0.01})
    run_node("train")
    assert "from step 0" in capsys.readouterr().err
    tree({"train.matrix_learning_rate": 0.04})
    run_node("train")
    assert "from step 2" in capsys.readouterr().err


def test_damaged_checkpoint_is_skipped_with_a_line(tmp_path, capsys):
    folder = checkpoints.Folder(tmp_path)
    folder.save(1, {"a": torch.ones(2)}, {"step": 1})
    folder.save(2, {"a": torch.zeros(2)}, {"step": 2})
    newest = tmp_path / "step_000000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    assert folder.latest()[1] == {"step": 1}
    assert "skipping a damaged checkpoint" in capsys.readouterr().out


def test_two_trainings_of_the_same_parameters_do_not_run_side_by_side(tmp_path):
    one, two = checkpoints.Folder(tmp_path), checkpoints.Folder(tmp_path)
    with one.locked(), pytest.raises(ValueError, match="already being done"), two.locked():
        pass


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    folder = checkpoints.Folder(tmp_path)
    for step in range(5):
        folder.save(step, {"a": torch.ones(1)}, {"step": step})
    assert [p.name for p in sorted(tmp_path.glob("step_*"))] == ["step_000000003.safetensors", "step_000000004.safetensors"]


@pytest.mark.parametrize("named", [{}, {"bigram_hash": {"buckets": 64, "width": 8, "scale": 0.05, "trigram": False},
                                       "two_lane": {"first_layer": 1}, "unet_skips": {"gated": True, "sets": 5},
                                       "depth_recurrence": {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 6,
                                                            "start_fraction": 0.0}}], ids=["plain", "features"])
def test_two_processes_train_as_one_does(project, tree, named):
    tree({"model.features": named})
    if named:
        run_node("train")
    single, _ = tensors.load(project / "artifacts/train/model.safetensors")
    tree({"train.processes": 2})
    done = subprocess.run([sys.executable, "-m", "stages.train"], env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          cwd=project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    double, _ = tensors.load(project / "artifacts/train/model.safetensors")
    assert json.loads((project / "artifacts/train/metrics.json").read_text())["processes"] == 2
    assert all(torch.allclose(single[name], double[name], atol=2e-4) for name in single)


def test_divergence_stops_with_the_step_and_advice(project, tree, capsys):
    tree({"train.embedding_learning_rate": 1e30, "train.matrix_learning_rate": 1e30})
    with pytest.raises(SystemExit):
        run_node("train")
    assert "the training loss is" in (said := capsys.readouterr().err) and "at step" in said and "lower train." in said


def test_budget_in_seconds_ends_the_run(project, tree):
    tree({"train.steps": 10_000_000, "train.seconds": 0.3})
    run_node("train")
    metrics = json.loads((project / "artifacts/train/metrics.json").read_text())
    assert 0.3 <= metrics["train_seconds"] < 3.0


@pytest.mark.parametrize("average", ["final", "ema_0.95", "ema_0.98"])
def test_ema_hands_on_exactly_the_chosen_weights(project, tree, average):
    tree({"ema.average": average})
    run_node("ema")
    source = "artifacts/train/model.safetensors" if average == "final" else f"artifacts/train/averages/{average}.safetensors"
    assert (project / "artifacts/ema/model.safetensors").read_bytes() == (project / source).read_bytes()


def test_prequant_ttt_is_the_identity_when_off(finished):
    adapted, before = (finished / f"artifacts/{stage}/model.safetensors" for stage in ("prequant_ttt", "ema"))
    assert adapted.read_bytes() == before.read_bytes()


@pytest.mark.parametrize("split", ["holdout", "val"])
def test_prequant_ttt_lowers_the_loss_on_its_split(project, tree, split, capsys):
    tree({"prequant_ttt.enabled": True, "prequant_ttt.split": split, "prequant_ttt.epochs": 3})
    run_node("prequant_ttt")
    metrics = json.loads((project / "artifacts/prequant_ttt/metrics.json").read_text())
    assert metrics["last_loss_nats"] < metrics["first_loss_nats"] and metrics["steps"] > 3
    assert ("ADAPTS TO THE VALIDATION SPLIT" in capsys.readouterr().err) == (split == "val")


def test_every_process_takes_the_slowest_clock(monkeypatch):
    """Else each would have its own learning rate in a run of `seconds`, and its own weights."""
    monkeypatch.setattr(loop.dist, "all_reduce", lambda clock, operation: clock.clamp_(min=7.5) if operation == dist.ReduceOp.MAX else None)
    two, one = (launch.World(0, size, torch.device("cpu")) for size in (2, 1))
    assert [loop._slowest(seconds, two) for seconds in (7.1, 8.3)] == [7.5, 8.3] and loop._slowest(7.1, one) == 7.1


def test_training_that_ends_before_its_recurrence_starts_says_so(project, tree, capsys):
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 99, "start_fraction": 0.0}
    tree({"model.features": {"depth_recurrence": recurrence}})
    run_node("train")
    assert "DEPTH_RECURRENCE NEVER STARTED: 12 steps" in capsys.readouterr().err
    tree({"model.features": {"depth_recurrence": recurrence | {"start_step": 4}}})
    run_node("train")
    assert "NEVER STARTED" not in capsys.readouterr().err


def test_training_goes_through_every_stage_with_features_on(project, tree, monkeypatch):
    """Trained, averaged, adapted, quantized, packed, scored: the recurrence off for the first steps, and on from then on."""
    seen, progress = [], GPT.progress

    def watch(self, **how_far):
        progress(self, **how_far)
        seen.append((how_far, self.features["depth_recurrence"].looping))

    monkeypatch.setattr(GPT, "progress", watch)
    named = {"bigram_hash": {"buckets": 64, "width": 8, "scale": 0.05, "trigram": True}, "smear_gate": {"version": 2, "window": 12},
             "unet_skips": {"gated": True, "sets": 2}, "residual_mix": {}, "xsa": {"last_layers": 2},
             "sparse_gate": {"window": 8, "factor": 0.5},
             "value_embedding": {"layers": [1], "width": 8, "scale": 0.1},
             "depth_recurrence": {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 3, "start_fraction": 0.5}}
    tree({"model.features": named, "model.tied_head": False, "prequant_ttt.enabled": True, "evaluate.runs.sliding.options.stride": 64})
    for node in (("train",), ("ema",), ("prequant_ttt",), ("calibrate",), ("quantize",), ("measure", "quantize"), ("compress", "brotli_11"),
                 ("package",), ("evaluate", "sliding")):
        run_node(*node)
    assert seen == [({"step": step, "fraction": step / 12}, step >= 6) for step in range(12)] + [({}, True)]
    metrics = {stage: json.loads((project / f"artifacts/{path}/metrics.json").read_text())
               for stage, path in (("train", "train"), ("quantize", "measure/quantize"), ("sliding", "evaluate/sliding"))}
    assert metrics["train"]["loss_nats"] < np.log(384) - 0.2
    assert metrics["sliding"]["bits_per_byte"] == pytest.approx(metrics["quantize"]["bits_per_byte"], rel=1e-6)  # the artifact alone
