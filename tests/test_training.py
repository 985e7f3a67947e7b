"""Training as a whole: determinism, resuming, several processes, budgets, what a person is told."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from stages.lib.node import launch, tensors
from stages.runtime.network.gpt import GPT
from stages.train import checkpoints, loop
from tests.conftest import ROOT, run_node
from tests.test_techniques import ON


def test_training_twice_gives_the_same_bytes(project):
    first = {p.name: p.read_bytes() for p in (project / "artifacts/train").rglob("*.safetensors")}
    run_node("train")
    assert first == {p.name: p.read_bytes() for p in (project / "artifacts/train").rglob("*.safetensors")}


def test_training_lowers_the_loss_and_leaves_no_checkpoints(finished):
    metrics = json.loads((finished / "artifacts/train/metrics.json").read_text())
    assert metrics["loss_nats"] < np.log(384) - 0.5 and metrics["steps"] == 12
    assert not list((finished / "scratch/train").iterdir())


@pytest.mark.parametrize(
    "kill_after",
    [
        pytest.param(step, marks=pytest.mark.slow if number else ())
        for number, step in enumerate(sorted(random.Random(7).sample(range(1, 11), 3)))
    ],
)
def test_killed_training_continues_to_the_same_bytes(project, tree, kill_after):
    tree({"train.checkpoint_seconds": 0.0})  # a checkpoint after every step
    expected = (project / "artifacts/train/model.safetensors").read_bytes()
    (project / "artifacts/train/model.safetensors").unlink()
    trainer = subprocess.Popen(
        [sys.executable, "-m", "stages.train"], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=project, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list((project / "scratch/train").glob(f"*/step_{kill_after:09d}.safetensors")) and trainer.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.002)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    assert not (project / "artifacts/train/model.safetensors").exists()
    run_node("train")
    assert (project / "artifacts/train/model.safetensors").read_bytes() == expected


@pytest.mark.slow
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


FEATURES = {
    "bigram_hash": {"buckets": 64, "width": 8, "scale": 0.05, "trigram": False},
    "unet_skips": {"gated": True, "sets": 5},
    "two_lane": {"first_layer": 1, "writes": "simultaneous"},
    "depth_recurrence": {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 6, "start_fraction": 0.0},
}


def losses(project):
    return [float(line.split(",")[1]) for line in (project / "artifacts/train/loss.csv").read_text().splitlines()[1:]]


# All that can be on together, in a network with a head of its own. SOAP-Muon divides by what rounding leaves where a gradient is 0, as
# most are in the first steps; tests/test_optimizers.py has it with other gradients.
TECHNIQUES = {
    "train.techniques": {name: options for name, options in ON.items() if name not in ("row_floor", "epoch_cycles", "soap_muon")},
    "train.warmdown": 0.0,
    "model.tied_head": False,
}


@pytest.mark.parametrize(
    "processes, named, changes",
    [
        pytest.param(2, FEATURES, {}, id="two with features"),
        pytest.param(2, {}, {}, id="two", marks=pytest.mark.slow),
        pytest.param(2, {}, TECHNIQUES, id="two with techniques", marks=pytest.mark.slow),
        pytest.param(2, {}, {"train.techniques": {"row_floor": ON["row_floor"]}}, id="two with row floor", marks=pytest.mark.slow),
        pytest.param(4, {}, {}, id="four", marks=pytest.mark.slow),
    ],
)
def test_several_processes_train_as_one_does(project, tree, processes, named, changes):
    tree({"model.features": named, **changes})
    if named or changes:
        run_node("train")
    single, alone = tensors.load(project / "artifacts/train/model.safetensors")[0], losses(project)
    record = (project / "artifacts/train/opened.json").read_bytes()
    tree({"train.processes": processes})
    done = subprocess.run(
        [sys.executable, "-m", "stages.train"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    several, _ = tensors.load(project / "artifacts/train/model.safetensors")
    assert json.loads((project / "artifacts/train/metrics.json").read_text())["processes"] == processes
    assert losses(project) == pytest.approx(alone, abs=2e-4 if changes else 2e-5)
    far = torch.cat([(single[name] - several[name]).abs().flatten() for name in single]) > 2e-4
    assert far.float().mean() < (1e-3 if changes else 1e-9)  # cautious decay asks for signs, and rounding decides that of a product near 0
    assert (project / "artifacts/train/opened.json").read_bytes() == record and not any((project / "scratch/opened").iterdir())


@pytest.mark.slow
def test_two_machines_train_as_one_does(project):
    """Two process groups that meet over loopback, each started by hand as docs/training.md says; rank 0 writes. Where this user may, the
    second machine cannot see the numbers of the first one's processes, nor the other way round."""
    alone, record = losses(project), (project / "artifacts/train/opened.json").read_bytes()
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        apart = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        subprocess.Popen(
            [
                *where,
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                "--nproc-per-node=1",
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint=127.0.0.1:{port}",
                "--local-addr=127.0.0.1",
                "-m",
                "stages.train",
            ],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for where in ([], apart)
    ]
    said = [node.communicate(timeout=240)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert (project / "artifacts/train/opened.json").read_bytes() == record and not any((project / "scratch/opened").iterdir())
    assert json.loads((project / "artifacts/train/metrics.json").read_text())["processes"] == 2
    assert losses(project) == pytest.approx(alone, abs=2e-5)


@pytest.mark.slow
def test_processes_join_one_group_after_the_other_however_late_one_is(tmp_path):
    """As in the one script of a submission: the addresses of the first group are still in the store when the second one meets."""
    (tmp_path / "stages_in_turn.py").write_text("""
import os, time, torch
from stages.lib.node import launch
for late, section in enumerate(("train", "calibrate")):
    time.sleep(late * int(os.environ["RANK"]))
    with launch.world("cpu", section=section) as world:
        sum_of_ranks = torch.ones(1)
        torch.distributed.all_reduce(sum_of_ranks)
        assert sum_of_ranks == world.size == 2
""")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "stages_in_turn.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["shuffled", pytest.param("packed", marks=pytest.mark.slow)])
def test_a_batch_in_parts_trains_as_the_whole_does(project, tree, kind):
    tree({"train.loader": kind})
    run_node("train")
    whole, alone = tensors.load(project / "artifacts/train/model.safetensors")[0], losses(project)
    tree({"train.micro_batch_tokens": 256})
    run_node("train")
    parts, _ = tensors.load(project / "artifacts/train/model.safetensors")
    assert losses(project) == pytest.approx(alone, abs=2e-5)
    assert all(torch.allclose(whole[name], parts[name], atol=2e-4) for name in whole)
    assert any(not torch.equal(whole[name], parts[name]) for name in whole)


def test_snapshots_of_a_run_without_a_checkpoint_are_forgotten(project, tree, monkeypatch):
    """A clock of seconds takes another way the next time; what was kept on the first must not be mixed in."""
    take = loop._step

    def die(run, *rest):
        if run.step == 7:
            raise KeyboardInterrupt
        return take(run, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", die)
        with pytest.raises(SystemExit):
            run_node("train")
    (folder,) = (project / "scratch/train").iterdir()
    (folder / "snapshots/step_000000099.safetensors").write_bytes(b"of another way")
    run_node("train")
    kept = sorted(int(path.stem.removeprefix("step_")) for path in (project / "artifacts/train/snapshots").iterdir())
    assert kept[0] == 0 and kept[-1] == 12 and len(kept) == 9


@pytest.mark.parametrize("kill_at", [5, 6, 8])
def test_switches_are_told_the_same_after_a_kill(project, tree, monkeypatch, kill_at):
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 6, "start_fraction": 0.0}
    tree({"model.features": {"depth_recurrence": recurrence}, "train.checkpoint_seconds": 0.0})
    take, events, killed = loop._step, [], []

    def die(run, *rest):
        if run.step == kill_at and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        events[:] = run.events
        return take(run, *rest)

    monkeypatch.setattr(loop, "_step", die)
    with pytest.raises(SystemExit):
        run_node("train")
    run_node("train")
    assert events == [6]


def test_divergence_stops_with_the_step_and_advice(project, tree, capsys):
    tree({"train.embedding_learning_rate": 1e30, "train.matrix_learning_rate": 1e30})
    with pytest.raises(SystemExit):
        run_node("train")
    assert "the training loss is" in (said := capsys.readouterr().err) and "at step" in said and "lower train." in said


@pytest.mark.slow
def test_a_loss_that_stays_above_guessing_stops_the_run_and_a_spike_does_not(project, tree, capsys, monkeypatch):
    take, shift = loop._step, {}
    monkeypatch.setattr(loop, "_step", lambda run, *rest: take(run, *rest) + (5.0 if shift["from"] <= run.step < shift["to"] else 0.0))
    tree({"train.steps": 130, "train.holdout_every": 1000, "train.batch_tokens": 64})
    shift |= {"from": 0, "to": 60}
    run_node("train")
    shift |= {"from": 60, "to": 999}
    with pytest.raises(SystemExit):
        run_node("train")
    assert "at step 100, it began with 5.9" in capsys.readouterr().err


def test_budget_in_seconds_ends_the_run(project, tree):
    tree({"train.steps": 10_000_000, "train.seconds": 0.3})
    run_node("train")
    metrics = json.loads((project / "artifacts/train/metrics.json").read_text())
    assert 0.3 <= metrics["train_seconds"] < 3.0


def test_processes_that_would_continue_from_different_steps_are_refused(monkeypatch):
    """As when two machines do not share scratch/: rank 0 is at step 7, this one at 0."""
    two, one = (launch.World(1, size, torch.device("cpu")) for size in (2, 1))
    others = torch.tensor([7, -7])
    monkeypatch.setattr(launch.dist, "all_reduce", lambda extremes, operation: extremes.copy_(torch.maximum(extremes, others)))
    launch.require_same(7, two, "no")
    launch.require_same(0, one, "no")
    for number in (0, 8):
        with pytest.raises(ValueError, match="share scratch"):
            launch.require_same(number, two, "share scratch/")


def test_more_processes_than_gpus_is_a_sentence_before_any_is_started(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("torch.distributed.run.run", lambda arguments: pytest.fail("started"))
    with pytest.raises(ValueError, match=r"train\.processes is 8, but torch sees 1 GPUs"):
        launch.relaunched(8, "stages.train", "auto")


def test_world_size_of_the_environment_says_nothing_without_torchrun(monkeypatch):
    """Containers of clusters set it for every process."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    with launch.world("cpu") as alone:
        assert (alone.size, alone.rank) == (1, 0)


@pytest.mark.parametrize(
    "compile, fused, device, found",
    [
        ("auto", "auto", "cpu", (False, False)),
        ("auto", "auto", "cuda", (True, True)),
        ("always", "auto", "cpu", (True, False)),
        ("never", "never", "cuda", (False, False)),
        ("never", "always", "cuda", (False, True)),
        ("auto", "always", "cpu", None),
    ],
)
def test_programs_are_what_was_named_or_the_fastest_of_the_device(compile, fused, device, found, monkeypatch):
    monkeypatch.setattr(loop.softcap_cross_entropy, "is_available", lambda: True)
    settings, large = SimpleNamespace(compile=compile, fused_loss=fused, batch_tokens=1 << 19, steps=20_000), torch.nn.Linear(1000, 1000)
    if found is None:
        with pytest.raises(ValueError, match="it needs a GPU and the package triton"):
            loop.programs(settings, device, large)
    else:
        assert loop.programs(settings, device, large) == dict(zip(("compiled", "fused_loss"), found, strict=True))


def test_every_process_takes_the_slowest_clock(monkeypatch):
    """Else each would have its own learning rate in a run of `seconds`, and its own weights."""
    monkeypatch.setattr(loop.dist, "all_reduce", lambda clock, operation: clock.clamp_(min=7.5) if operation == dist.ReduceOp.MAX else None)
    two, one = (launch.World(0, size, torch.device("cpu")) for size in (2, 1))
    loss = torch.tensor(3.25)
    assert [loop._arrived(loss, seconds, two) for seconds in (7.1, 8.3)] == [(3.25, 7.5), (3.25, 8.3)]
    assert loop._arrived(loss, 7.1, one) == (3.25, 7.1)


@pytest.mark.slow
def test_training_that_ends_before_its_recurrence_starts_says_so(project, tree, capsys):
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 99, "start_fraction": 0.0}
    tree({"model.features": {"depth_recurrence": recurrence}})
    run_node("train")
    assert "DEPTH_RECURRENCE NEVER STARTED: 12 steps" in capsys.readouterr().err
    tree({"model.features": {"depth_recurrence": recurrence | {"start_step": 4}}})
    run_node("train")
    assert "NEVER STARTED" not in capsys.readouterr().err


@pytest.mark.slow
def test_training_goes_through_every_stage_with_features_on(project, tree, monkeypatch):
    """Trained, averaged, adapted, quantized, packed, scored: the recurrence off for the first steps, and on from then on."""
    seen, progress = [], GPT.progress

    def watch(self, **how_far):
        progress(self, **how_far)
        seen.append((how_far, self.features["depth_recurrence"].looping))

    monkeypatch.setattr(GPT, "progress", watch)
    named = {
        "bigram_hash": {"buckets": 64, "width": 8, "scale": 0.05, "trigram": True},
        "smear_gate": {"version": 2, "window": 12},
        "unet_skips": {"gated": True, "sets": 2},
        "residual_mix": {},
        "xsa": {"last_layers": 2},
        "sparse_gate": {"window": 8, "factor": 0.5},
        "value_embedding": {"layers": [1], "width": 8, "scale": 0.1},
        "depth_recurrence": {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 3, "start_fraction": 0.5},
    }
    tree({"model.features": named, "model.tied_head": False, "prequant_ttt.enabled": True, "evaluate.runs.sliding.options.stride": 64})
    for node in (
        ("train",),
        ("ema",),
        ("prequant_ttt",),
        ("calibrate",),
        ("quantize",),
        ("plain_score", "quantize"),
        ("compress", "brotli_11"),
        ("package",),
        ("evaluate", "sliding"),
    ):
        run_node(*node)
    assert seen[2:] == [({"step": step, "fraction": step / 12}, step >= 6) for step in range(12)] + [({}, True)]
    metrics = {
        stage: json.loads((project / f"artifacts/{path}/metrics.json").read_text())
        for stage, path in (("train", "train"), ("quantize", "plain_score/quantize"), ("sliding", "evaluate/sliding"))
    }
    assert metrics["train"]["loss_nats"] < np.log(384) - 0.2
    assert metrics["sliding"]["bits_per_byte"] == pytest.approx(metrics["quantize"]["bits_per_byte"], rel=1e-6)  # the artifact alone


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_compiled_training_is_the_same_training_in_one_graph_for_each_state(project, tree, monkeypatch, packed):
    """By the eager back end: what is compiled is what is traced, and no more often than it must be."""
    torch._dynamo.reset()
    graphs, compile = [], torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, **options: compile(function, backend=lambda graph, inputs: graphs.append(1) or graph.forward, **options),
    )
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 6, "start_fraction": 0.0}
    tree({"model.features": {"depth_recurrence": recurrence}, "train.loader": "packed" if packed else "shuffled"})
    run_node("train")
    plain, _ = tensors.load(project / "artifacts/train/model.safetensors")
    assert not graphs
    tree({"train.compile": "always", "train.priming_steps": 1})
    run_node("train")
    fast, _ = tensors.load(project / "artifacts/train/model.safetensors")
    assert all(torch.allclose(plain[name], fast[name], atol=1e-4) for name in plain)
    assert len(graphs) == 2 * (loop.PRIMED_LENGTHS if packed else 1)  # before and after the recurrence starts
    torch._dynamo.reset()


@pytest.mark.slow
def test_priming_leaves_no_trace(project, tree):
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 6, "start_fraction": 0.0}
    tree(
        {
            "model.features": {"depth_recurrence": recurrence},
            "train.loader": "coprime",
            "train.averages.lawa_every": 2,
            "train.averages.swa_every": 2,
            "train.averages.swa_below": 1.0,
        }
    )
    run_node("train")
    before = {path.name: path.read_bytes() for path in (project / "artifacts/train").rglob("*.safetensors")}
    tree({"train.priming_steps": 3})
    run_node("train")
    assert {"lawa.safetensors", "swa.safetensors"} < before.keys()
    assert before == {path.name: path.read_bytes() for path in (project / "artifacts/train").rglob("*.safetensors")}


@pytest.mark.slow
def test_a_run_of_seconds_is_repeated_by_the_clock_it_recorded(project, tree):
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 0, "start_fraction": 0.4}
    tree(
        {
            "model.features": {"depth_recurrence": recurrence},
            "train.steps": 100_000,
            "train.seconds": 1.0,
            "train.reserve_seconds": 0.25,
            "train.schedule": "iterations",
            "train.warmdown": 5.0,
        }
    )
    run_node("train")
    timed = json.loads((project / "artifacts/train/metrics.json").read_text())
    assert timed["budget"] == 0.75 <= timed["spent"] and timed["budget_unit"] == "seconds"
    tree({"train.clock": timed["clock"]})
    run_node("train")
    repeated = json.loads((project / "artifacts/train/metrics.json").read_text())
    assert repeated["steps"] == timed["steps"] and repeated["budget_unit"] == "virtual seconds" and repeated["clock"] is None
    weights = (project / "artifacts/train/model.safetensors").read_bytes()
    run_node("train")
    assert (project / "artifacts/train/model.safetensors").read_bytes() == weights


def test_use_of_the_hardware_counts_what_ran(project, tree):
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 6, "start_fraction": 0.0}
    tree({"model.features": {"depth_recurrence": recurrence}})
    run_node("train")
    found = json.loads((project / "artifacts/train/metrics.json").read_text())
    layer = 3 * 2 * (2 * 64 * 64 + 2 * 32 * 64 + 2 * 64 * 128 + 64 * 65)  # query, output; key, value; up, down; attention
    head, tokens = 3 * 2 * 64 * 384, 1024
    assert found["training_flops_per_token"] == 3 * layer + head
    flops = tokens * (6 * (2 * layer + head) + 6 * (3 * layer + head))
    reached = flops / found["train_seconds"] / found["matmul_flops_per_second"]
    assert 0 < found["model_flops_utilisation"] < 1 and found["model_flops_utilisation"] == pytest.approx(reached, rel=0.05, abs=1e-4)
