"""What runs on a GPU, rehearsed on a CPU with a second device (rehearsal.py): each stage and each evaluator keeps its tensors together."""

import json
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.lib.node import launch
from stages.lib.referee import artifact, jail
from stages.runtime import entry
from stages.runtime.network.gpt import GPT
from stages.runtime.scoring import evaluators, harness
from stages.runtime.scoring.adapters import Adapters
from stages.train import numerics
from tests.conftest import run_node
from tests.rehearsal import OnDevice, Rehearsal, fake_cuda
from tests.test_evaluators import VARIANTS, kind, model, stream
from tests.test_numerics import FULL, HALF, traced
from tests.test_stacks import WIRINGS, documents, small

CHAOTIC = {"iterations": 2}  # more iterations of L-BFGS multiply the rounding
QUICK = ("ttt_lora", "mixture")  # the two that a GPU once ended at their first chunk
GATES = {"dense_gate": {}, "value_residual": {"form": "blend"}, "dtg": {}}
RUNS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS]


def test_second_device_refuses_what_cuda_refuses():
    here = torch.ones(3)
    with Rehearsal() as gpu:
        there = here.to("cuda")
        assert there.is_cuda and there.device == torch.device("cuda", 0) and torch.zeros(2, device="cuda").is_cuda
        assert (there + 1).tolist() == [2, 2, 2] and (there * torch.tensor(2.0)).cpu().tolist() == [2, 2, 2]
        assert [name for name, *_ in gpu.syncs] == ["_to_copy"] * 2
        with pytest.raises(AssertionError, match="add of tensors on two devices"):
            there + here
        with pytest.raises(AssertionError, match="generator of another device"):
            torch.empty(3, device="cuda").uniform_(generator=torch.Generator())
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()
        weight = torch.nn.Parameter(there.clone())
        (weight * there).sum().backward()
        assert isinstance(weight.grad, OnDevice) and bool(weight.grad[0] == 1) and gpu.syncs[-1][0] == "_local_scalar_dense"


@pytest.mark.parametrize("name", RUNS)
def test_evaluator_scores_on_a_gpu_as_on_a_cpu(name):
    options, tokens = VARIANTS[name] | (CHAOTIC if name.startswith("lbfgs") else {}), stream(66)
    expected = harness.score(evaluators.build(kind(name), model(trained=True), options), tokens)
    net = model(trained=True)
    with Rehearsal(default=True):
        found = harness.score(evaluators.build(kind(name), net.to("cuda"), options), tokens)
    assert found.nats == pytest.approx(expected.nats, abs=1e-4)


def test_artifact_loads_its_model_on_a_gpu(project, monkeypatch):
    read = {"memory.bin": b"", "model.blob": (project / "artifacts/compress/brotli_11/model.blob").read_bytes()}
    monkeypatch.setattr(entry, "read", read.__getitem__)
    threads = torch.get_num_threads()
    try:
        with Rehearsal():
            options = {"window": 8, "stride": 4, "batch": 2}
            _, evaluator, device = entry.opened("sliding", options, threads=threads, device="auto")
            assert device == "cuda" and all(weight.is_cuda for weight in evaluator(options).model.parameters())
            assert torch.are_deterministic_algorithms_enabled() and not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_default_device(None)
        torch.set_deterministic_debug_mode("default")


class AtOnce:
    """An executor that runs what it is given at once: the second device is one thread's."""

    def __init__(self, workers):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


CUDA_RUN = {f"{node}.device": "cuda" for node in ("train", "ema", "prequant_ttt", "calibrate", "sensitivity", "quantize", "plain_score")}
CUDA_RUN |= {"train.compile": "never", "train.fused_loss": "never", "train.precision": "fp32", "train.steps": 6}


@pytest.fixture
def on_gpu(tree, monkeypatch):
    """Run a stage of the project with device cuda; returns the rehearsal."""
    monkeypatch.setattr("stages.train.prefetch.ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(launch, "matmul_rate", lambda *_: 1e12)

    def run(*node, **leaves):
        tree(CUDA_RUN | {path.replace("__", "."): value for path, value in leaves.items()})
        try:
            with Rehearsal() as gpu:
                run_node(*node)
        finally:
            torch.set_deterministic_debug_mode("default")
        return gpu

    return run


OUTSIDE_OF_STEPS = ("stages/lib/node/tensors.py:save", "stages/lib/tokens/window_score.py:chunked")
TRAININGS = {
    "muon": {},
    "adamw": {"train__optimizer": "adamw"},
    "sequential": {"train__loader": "sequential"},
    "coprime": {"train__loader": "coprime"},
    "packed": {"train__loader": "packed"},
    "packed, plain": {"train__loader": "packed", "model__attention_backend": "plain"},
    "qat": {"train__qat__form": "soft_round", "train__qat__threshold": 1.0},
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "muon" else pytest.mark.slow) for name in TRAININGS])
def test_training_runs_on_a_gpu_and_a_step_waits_for_it_only_where_it_must(project, on_gpu, name):
    gpu = on_gpu("train", **TRAININGS[name])
    assert json.loads((project / "artifacts/train/metrics.json").read_text())["steps"] == 6
    places = [place for _, place, _ in gpu.syncs if place not in OUTSIDE_OF_STEPS]
    segments = [place for place in places if place == "stages/runtime/network/backends.py:sdpa"]  # eager sdpa reads their lengths
    assert bool(segments) == (name == "packed") and len(places) - len(segments) <= 2 * 6
    assert {place.split(":")[0] for place in places} <= {"stages/train/loop.py", "stages/runtime/network/backends.py"}


STAGES = {
    "ema": {},
    "prequant_ttt": {},
    "prequant_ttt, federated": {"prequant_ttt__procedure": "federated", "prequant_ttt__ranks": 4},
    "calibrate": {},
    "calibrate, self": {"calibrate__source": "self"},
    "sensitivity": {},
    "quantize": {},
    "quantize, entropy": {f"quantize__groups__{group}__method": "entropy" for group in ("attention", "mlp")},
    "quantize, corrected": {"quantize__low_rank__matrices": 2, "quantize__rotation__groups": ["mlp"], "quantize__rotation__block": 8},
    "quantize, ternary": {"quantize__groups__mlp__method": "ternary", "quantize__ternary__group": 8},
    "plain_score": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_stage_measures_on_a_gpu_what_it_measures_on_a_cpu(project, tree, on_gpu, name):
    node = name.split(",")[0]
    command, leaves = [node] + ["quantize"] * (node == "plain_score"), STAGES[name]
    leaves = leaves | {"prequant_ttt__enabled": True, "sensitivity__enabled": True}
    tree({path.replace("__", "."): value for path, value in leaves.items()})
    run_node(*command)
    expected = numbers(project / "artifacts" / "/".join(command) / "metrics.json")
    gpu = on_gpu(*command, **leaves)
    assert gpu.syncs  # it used the device
    rel = 0.2 if name in ("sensitivity", "quantize, entropy") else 1e-3  # their levels turn on the last bits, also of the Hessians
    assert numbers(project / "artifacts" / "/".join(command) / "metrics.json") == pytest.approx(expected, rel=rel, abs=1e-6)


def numbers(path):
    """Every number of a file of JSON that is no time, by its place. Of the passes of a search only the end counts."""

    def walk(value, place):
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from walk(inner, f"{place}/{key}")
        elif isinstance(value, int | float) and "second" not in place and "/passes/" not in place:
            yield place, value

    return dict(walk(json.loads(path.read_text()), ""))


@pytest.mark.parametrize("name", [*WIRINGS, "gates"])
def test_every_tensor_has_the_type_of_the_policy_under_the_autocast_of_cuda(name, monkeypatch):
    """It computes more operations in float32 than that of a CPU, such as sums."""
    x, cu_seqlens = documents()
    with torch.device("meta"):
        config = small("naive" if name == "gates" else name)
        net = GPT(replace(config, features=GATES) if name == "gates" else config).requires_grad_(False)
    numerics.store(net, "bf16")
    net.attention_backend = "plain"
    monkeypatch.setattr(numerics, "cast_at_use", lambda precision, device: torch.autocast("cuda", HALF))
    with fake_cuda():
        for module in net.modules():
            for key, weight in module._parameters.items():
                if weight is not None:
                    there = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
                    module._parameters[key] = torch.nn.Parameter(there, requires_grad=False)
        logits, seen = traced(net, monkeypatch, *(torch.empty(part.shape, dtype=part.dtype, device="cuda") for part in (x, cu_seqlens)))
    assert logits.device.type == "cuda" and logits.dtype == FULL
    assert set.union(*seen.values()) == {HALF}, {kind: types for kind, types in seen.items() if types != {HALF}}


PREFIXES = ("sliding", "streaming", "mixture", "online_bias", "ttt_lora", "ttt_phased")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PREFIXES])
def test_a_chunk_costs_the_same_at_every_place_of_the_stream(name):
    """Whole numbers that operations read, and values copied to the host, in later chunks of a stream of one document."""
    tokens = np.random.default_rng(2).integers(2, 50, 24 * 13 + 1)
    options = VARIANTS[name] | ({"phases": []} if name == "ttt_phased" else {}) | ({"batch": 1} if "batch" in VARIANTS[name] else {})
    net, counts = model(trained=True), []
    with Rehearsal(default=True) as gpu:
        evaluator = evaluators.build(kind(name), net.to("cuda"), options)
        learn = evaluator.learn

        def noted(seen, chunk):
            learn(seen, chunk)
            counts.append((gpu.touched, sum(values for *_, values in gpu.syncs)))

        evaluator.learn = noted
        harness.score(evaluator, tokens)
    costs = np.diff(np.array(counts), axis=0)
    assert len(costs) > 11 and (costs[8:-1] == costs[8]).all(), costs


def test_adapters_start_equal_on_every_device():
    net = model(trained=True)
    made = [Adapters(net, rank=2, alpha=1.0, targets=["query", "head"], generator=torch.Generator().manual_seed(4))]
    with Rehearsal(default=True):
        made.append(Adapters(net.to("cuda"), rank=2, alpha=1.0, targets=["query", "head"], generator=torch.Generator().manual_seed(4)))
        assert all(weight.is_cuda for weight in made[1].parameters())
        assert [weight.tolist() for weight in made[0].parameters()] == [weight.tolist() for weight in made[1].parameters()]


@pytest.mark.parametrize(
    "names, gpu, expected", [(None, 1, "1"), ("4,5", 1, "5"), ("GPU-8a, MIG-3b", 1, "MIG-3b"), ("7", 0, "7"), ("4,5", None, "4,5")]
)
def test_gpu_of_a_part_is_counted_among_those_of_the_parent(names, gpu, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert artifact._visible(gpu).get("CUDA_VISIBLE_DEVICES") == expected


def test_artifact_runs_without_kernels_that_torch_compiles_on_first_use(tmp_path):
    """And on a GPU its jail shows the devices."""
    (tmp_path / "submission.pyz").write_bytes(b"")
    made = jail.Jail(tmp_path / "submission.pyz", ["serve"], stderr=2, extra={}, environment={"CUDA_VISIBLE_DEVICES": "3"}, gpu=True)
    words = made._bubblewrap(tmp_path / "submission.pyz")
    assert words[words.index("TORCH_DISABLE_NATIVE_JIT") + 1] == "1" and words[words.index("CUDA_VISIBLE_DEVICES") + 1] == "3"
    assert words[(at := words.index("/sys") - 1) : at + 3] == ["--ro-bind", "/sys", "/sys"]


def test_precision_is_for_a_gpu_and_float32_is_the_default():
    net, module = model(trained=True), kind("sliding")
    for precision in ("tf32", "bf16"):
        evaluators.build(module, None, VARIANTS["sliding"] | {"precision": precision})  # the options are fine
        with pytest.raises(ValueError, match=f"precision is {precision}, which is for a GPU, and this is a CPU; set it to float32"):
            evaluators.build(module, net, VARIANTS["sliding"] | {"precision": precision})
    with pytest.raises(ValueError, match=r"precision is 'fp16'; it takes float32 \| tf32 \| bf16"):
        evaluators.build(module, net, VARIANTS["sliding"] | {"precision": "fp16"})
    named = harness.score(evaluators.build(module, net, VARIANTS["sliding"] | {"precision": "float32"}), stream(60))
    assert np.array_equal(named.nats, harness.score(evaluators.build(module, net, VARIANTS["sliding"]), stream(60)).nats)


def test_precision_holds_while_the_evaluator_works_and_no_longer():
    def state():
        return torch.backends.cuda.matmul.allow_tf32, torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None

    assert evaluators.rounding(state, "tf32")() == (True, None)
    assert evaluators.rounding(state, "bf16", "cpu")() == (False, HALF)
    assert state() == (False, None)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "slot" else pytest.mark.slow) for name in VARIANTS])
def test_every_evaluator_can_be_rounded_to_bf16(name):
    options, tokens = VARIANTS[name] | (CHAOTIC if name.startswith("lbfgs") else {}), stream(66)
    expected = harness.score(evaluators.build(kind(name), model(trained=True), options), tokens)
    evaluator = evaluators.build(kind(name), model(trained=True), options)
    for method in ("predict", "learn"):
        setattr(evaluator, method, evaluators.rounding(getattr(evaluator, method), "bf16", "cpu"))
    found = harness.score(evaluator, tokens)
    apart = 2.0 if name.startswith("lbfgs_slot,") else 0.2  # these two fit V numbers to few tokens
    assert found.nats == pytest.approx(expected.nats, abs=apart) and not np.array_equal(found.nats, expected.nats)
