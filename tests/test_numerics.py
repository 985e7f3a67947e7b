"""The numerics policy: what is stored in which type, what is computed in which, and that a half-precision run resumes bit for bit."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.lib.node import launch, params, tensors
from stages.runtime.network import attention, backends, gpt
from stages.train import __main__ as train
from stages.train import checkpoints, loop, numerics
from tests.conftest import ROOT, run_node
from tests.test_stacks import WIRINGS, documents, random_model, small

HALF, FULL = torch.bfloat16, torch.float32
TABLES = {"embedding.weight", "bigram_hash.table.weight", "value_embedding.table.weight"}


@pytest.mark.parametrize(
    "precision, device, expected", [("auto", "cpu", "fp32"), ("auto", "cuda", "bf16"), ("fp32", "cuda", "fp32"), ("bf16", "cpu", "bf16")]
)
def test_auto_is_half_precision_on_a_gpu_only(precision, device, expected):
    assert numerics.resolve(precision, device) == expected


def traced(net, monkeypatch, *arguments):
    """dtypes by kind of tensor, over one forward pass of `net` under its policy; and the logits."""
    seen = {}

    def note(kind, tensor):
        seen.setdefault(kind, set()).add(tensor.dtype)
        return tensor

    attend, rms, linear = backends.attend, attention.rms, F.linear
    monkeypatch.setattr(
        backends, "attend", lambda q, k, v, *rest, **options: note("y", attend(note("q", q), note("k", k), note("v", v), *rest, **options))
    )

    def noted(layer):
        def run(physical, x, *rest):
            out = layer(physical, note("stream", x), *rest)
            return tuple(note("stream", lane) for lane in out) if isinstance(out, tuple) else note("stream", out)

        return run

    for layer in ("_layer", "_two_lane_layer"):
        monkeypatch.setattr(net, layer, noted(getattr(net, layer)))
    for module in (attention, gpt):
        monkeypatch.setattr(module, "rms", lambda x: note("normalised", rms(note("stream", x) if x.ndim == 3 else x)))
    monkeypatch.setattr(
        gpt.F, "linear", lambda x, table, *rest: note("logits", linear(x, table, *rest)) if len(table) == 40 else linear(x, table, *rest)
    )
    for feature in net.features.values():
        for hook in ("embed", "stream", "enter", "normalised", "value", "attended", "gate", "leave"):
            if hasattr(type(feature), hook):
                act = getattr(feature, hook)
                monkeypatch.setattr(feature, hook, lambda *given, act=act: note("features", act(*given)))
    with numerics.cast_at_use("bf16" if net.embedding.weight.dtype == HALF else "fp32", "cpu"):
        return net(*arguments), seen


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", WIRINGS)
def test_every_tensor_of_a_stack_has_the_type_of_the_policy(name, packed, monkeypatch):
    net, (x, cu_seqlens) = random_model(small(name)).train(), documents()
    numerics.store(net, "bf16")
    stored = {key: weight.dtype for key, weight in net.named_parameters()}
    assert {key for key, dtype in stored.items() if dtype == HALF} == TABLES & stored.keys()
    assert set(stored.values()) == {HALF, FULL}
    logits, seen = traced(net, monkeypatch, x, *([cu_seqlens] if packed else []))
    features = {"features"} if seen.keys() & {"features"} else set()
    assert seen == {kind: {HALF} for kind in {"stream", "normalised", "q", "k", "v", "y", "logits"} | features}
    loss = F.cross_entropy(logits[0], x[0].roll(-1))
    assert logits.dtype == loss.dtype == FULL
    loss.backward()
    learned = {key: dtype for key, dtype in stored.items() if not key.startswith("asymmetric_cap")}  # caps are for scoring only
    assert {key: weight.grad.dtype for key, weight in net.named_parameters() if key in learned} == learned


@pytest.mark.parametrize("name", WIRINGS)
def test_full_precision_is_float32_everywhere(name, monkeypatch):
    net, (x, cu_seqlens) = random_model(small(name)), documents()
    before = copy.deepcopy(net.state_dict())
    numerics.store(net, "fp32")
    assert all(torch.equal(before[key], weight) and weight.dtype == FULL for key, weight in net.state_dict().items())
    _, seen = traced(net, monkeypatch, x, cu_seqlens)
    assert set.union(*seen.values()) == {FULL}


def test_gates_and_mixes_that_no_published_stack_has_on_keep_the_types_too(monkeypatch):
    for features in (
        {"dense_gate": {}, "value_residual": {"form": "blend"}, "dtg": {}},
        {"head_gate": {}, "value_residual": {"form": "add"}},
        {"output_gate": {"window": 5}, "bigram_hash": {"buckets": 11, "width": 4, "scale": 0.1, "trigram": True}},
    ):
        net = random_model(replace(small("naive"), features=features))
        numerics.store(net, "bf16")
        with monkeypatch.context() as patch:
            _, seen = traced(net, patch, documents()[0])
        assert set.union(*seen.values()) == {HALF}


def test_an_untied_head_is_stored_as_a_matrix_and_its_embedding_as_a_table():
    net = random_model(replace(small("naive"), tied_head=False))
    numerics.store(net, "bf16")
    assert net.embedding.weight.dtype == HALF and net.unembedding.weight.dtype == FULL


def test_rms_is_computed_in_float32_and_keeps_its_inputs_type():
    """With the epsilon of bfloat16, 7.8e-3, the rows below would shrink to almost nothing; so small is an embedding at its start."""
    x = 0.005 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    for dtype in (FULL, HALF):
        with torch.autocast("cpu", HALF):
            y = attention.rms(x.to(dtype))
        assert y.dtype == dtype and y.float().square().mean(-1) == pytest.approx([1.0] * 4, abs=2e-2)
    exact = x.to(HALF).double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + 1.1920929e-07).sqrt()
    assert torch.equal(attention.rms(x.to(HALF)), exact.to(HALF))


def test_logits_are_capped_in_float32():
    """Capped in bfloat16 they would be values that bfloat16 can hold."""
    net, (x, _) = random_model(small("naive")), documents()
    numerics.store(net, "bf16")
    with numerics.cast_at_use("bf16", "cpu"):
        logits = net(x)
        inside = F.linear(net.hidden(x), net.embedding.weight)
    assert inside.dtype == HALF and torch.equal(logits, 30.0 * torch.tanh(inside.float() / 30.0))
    assert not torch.equal(logits, logits.to(HALF).float())


@pytest.fixture
def half(project, tree):
    """The tiny training again, in half precision, with tables of every kind."""
    tree(
        {
            "train.precision": "bf16",
            "model.features": {
                "bigram_hash": {"buckets": 64, "width": 8, "scale": 0.05, "trigram": False},
                "smear_gate": {"version": 1, "window": 0},
                "value_embedding": {"layers": [1], "width": 8, "scale": 0.1},
            },
        }
    )
    return project


def test_optimizer_state_has_the_type_of_its_parameter_and_averages_are_float32():
    net, (x, _) = random_model(small("1172")).train(), documents()
    numerics.store(net, "bf16")
    settings = replace(params.section(params.read(ROOT / "params.yaml"), train.TrainSettings), techniques={})
    run = loop.start(net, settings, launch.World(0, 1, torch.device("cpu")))
    with numerics.cast_at_use("bf16", "cpu"):
        F.cross_entropy(net(x)[0], x[0].roll(-1)).backward()
    exact = sum(weight.grad.double().square().sum() for weight in net.parameters()).sqrt().item()
    run.optimizers.step(scale=1.0, momentum=0.9, taper=1.0)  # clips gradients of two types together, to 1
    assert exact > 2 and sum(weight.grad.double().square().sum() for weight in net.parameters()).sqrt() == pytest.approx(1.0, rel=1e-2)
    run.averages.update(1, 1.0)
    moments = {key: tensor.dtype for key, tensor in run.optimizers.state().items() if key.endswith(("/exp_avg", "/exp_avg_sq"))}
    assert {key for key, dtype in moments.items() if dtype == HALF} == {
        f"{name}/{slot}" for name in TABLES for slot in ("exp_avg", "exp_avg_sq")
    }
    assert {weight.dtype for average in run.averages.tensors.values() for weight in average.values()} == {FULL}


@pytest.mark.slow
def test_checkpoint_of_a_half_precision_run_continues_bit_for_bit(half, tree, monkeypatch, capsys):
    """Killed after a step, begun again; against the same training in one go."""

    class Killed(Exception):
        pass

    run_node("train")
    wanted = {path.name: path.read_bytes() for path in (half / "artifacts/train").rglob("*") if path.suffix in (".safetensors", ".csv")}
    save, found = checkpoints.Folder.save, {}

    def save_then_die(self, step, state, facts):
        save(self, step, state, facts)
        if step == 5:
            found.update(self.latest()[0])
            raise Killed

    monkeypatch.setattr(checkpoints.Folder, "save", save_then_die)
    tree({"train.checkpoint_seconds": 0.0})
    with pytest.raises(Killed):
        run_node("train")
    assert {key.split("/", 1)[1] for key, value in found.items() if key.startswith("model/") and value.dtype == HALF} == TABLES
    assert {value.dtype for key, value in found.items() if key.startswith("average/")} == {FULL}
    monkeypatch.setattr(checkpoints.Folder, "save", save)
    capsys.readouterr()
    run_node("train")
    assert "(bf16, attention by sdpa, 1 processes), from step 5" in capsys.readouterr().err
    assert {
        path.name: path.read_bytes() for path in (half / "artifacts/train").rglob("*") if path.suffix in (".safetensors", ".csv")
    } == wanted


def test_what_leaves_a_half_precision_training_is_float32_with_values_of_the_stored_types(half):
    run_node("train")
    metrics = json.loads((half / "artifacts/train/metrics.json").read_text())
    assert metrics["precision"] == "bf16" and metrics["loss_nats"] < np.log(384) - 0.3
    for path in [half / "artifacts/train/model.safetensors", *(half / "artifacts/train/averages").iterdir()]:
        weights, _ = tensors.load(path)
        assert {weight.dtype for weight in weights.values()} == {FULL} and weights.keys() >= TABLES
        assert {key for key, weight in weights.items() if torch.equal(weight, weight.to(HALF).float())} >= TABLES
        assert not torch.equal(weights["blocks.0.mlp.up.weight"], weights["blocks.0.mlp.up.weight"].to(HALF).float())
    for node in (("ema",), ("prequant_ttt",), ("calibrate",), ("quantize",), ("plain_score", "ema"), ("plain_score", "quantize")):
        run_node(*node)
    after = json.loads((half / "artifacts/plain_score/quantize/metrics.json").read_text())
    before = json.loads((half / "artifacts/plain_score/ema/metrics.json").read_text())
    assert after["bits_per_byte"] == pytest.approx(before["bits_per_byte"], rel=0.02)


def test_an_average_put_together_from_a_half_precision_run_has_values_of_the_stored_types(half, tree):
    tree({"ema.average": "posthoc_ema_0.95"})
    run_node("train")
    run_node("ema")
    weights, _ = tensors.load(half / "artifacts/ema/model.safetensors")
    kept, _ = tensors.load(half / "artifacts/train/averages/ema_0.95.safetensors")
    assert {weight.dtype for weight in weights.values()} == {FULL}
    assert {key for key, weight in weights.items() if torch.equal(weight, weight.to(HALF).float())} >= TABLES
    up = weights["blocks.0.mlp.up.weight"]
    assert not torch.equal(up, up.to(HALF).float())
    assert all(torch.allclose(weights[key], kept[key], atol=2e-3) for key in TABLES)


def test_weights_of_a_full_precision_training_leave_as_they_are():
    net = random_model(small("549"))
    weights = {key: weight.detach() for key, weight in net.named_parameters()}
    assert all(leaving is weights[key] for key, leaving in numerics.leaving(net, weights).items())


@pytest.mark.slow
def test_two_processes_train_in_half_precision_as_one_does(half, tree):
    run_node("train")
    single, _ = tensors.load(half / "artifacts/train/model.safetensors")
    tree({"train.processes": 2})
    done = subprocess.run(
        [sys.executable, "-m", "stages.train"],
        cwd=half,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    double, _ = tensors.load(half / "artifacts/train/model.safetensors")
    distance = sum((single[name] - double[name]).square().sum() for name in single) / sum(x.square().sum() for x in single.values())
    assert distance.sqrt() < 0.05  # gradients of tables are rounded to 8 bits before they are averaged


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", WIRINGS)
def test_on_a_gpu_every_tensor_of_a_stack_has_the_type_of_the_policy(name, monkeypatch):
    net, (x, cu_seqlens) = random_model(small(name)).cuda(), documents()
    numerics.store(net, "bf16")
    monkeypatch.setattr(numerics, "cast_at_use", lambda precision, device: torch.autocast("cuda", HALF))
    logits, seen = traced(net, monkeypatch, x.cuda(), cu_seqlens.cuda())
    assert set.union(*seen.values()) == {HALF} and logits.dtype == FULL
