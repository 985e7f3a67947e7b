"""What training does on a GPU, as far as a CPU can tell: which kernels attention can take, how often it compiles and waits, how it ends."""

import importlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages.lib.node import launch, params
from stages.lib.node.launch import World
from stages.lib.tokens import loader as loaders
from stages.runtime.network import backends
from stages.runtime.network.gpt import GPT
from stages.train import __main__ as train
from stages.train import loop, prefetch
from stages.train.optim import muon
from tests.conftest import ROOT, run_node
from tests.test_backends import inputs, outputs_and_gradients
from tests.test_loaders import BATCH, T, loader
from tests.test_packed import CONFIG
from tests.test_stacks import random_model

CPU, HALF = torch.device("cpu"), torch.bfloat16
SETTINGS = replace(params.section(params.read(ROOT / "params.yaml"), train.TrainSettings), techniques={})
PACKAGES = ("flash_attn", "flash_attn.cute", "flash_attn_3.flash_attn_interface", "flash_attn_interface", "torch.nn.attention.varlen")


@pytest.fixture
def called(monkeypatch):
    """The arguments of every call of torch's attention, while tensors say that they are on a GPU."""
    calls, attention = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        backends.F, "scaled_dot_product_attention", lambda q, k, v, **how: calls.append((q, k, v, how)) or attention(q, k, v, **how)
    )
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("layout", ["full_rows", "several"])
@pytest.mark.parametrize("masked", [False, True])
def test_on_a_gpu_torchs_attention_is_called_as_a_kernel_without_stored_scores_can_take_it(called, monkeypatch, dtype, layout, masked):
    """The flash kernel: half precision, no mask. The memory-efficient one: any, but each query head with its own key/value head."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: masked)  # then packed rows take a mask
    arguments = inputs(layout, "grouped", dtype=dtype)
    found = outputs_and_gradients(backends.sdpa, *arguments)
    expected = outputs_and_gradients(backends.plain, *arguments)
    for tensor, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(
            tensor, wanted, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=1e-5 if dtype == torch.float32 else 0.1
        )
    assert called
    for q, k, v, how in called:
        is_flash = dtype == HALF and "attn_mask" not in how
        assert how["enable_gqa"] == is_flash and k.size(1) == v.size(1) == (2 if is_flash else q.size(1))
        assert ("attn_mask" in how) == (masked and layout == "several")


def test_on_a_gpu_attention_over_a_window_repeats_its_heads_too(called):
    q, k, v, *_ = inputs("full_rows", "grouped")
    y = backends.windowed(q[:, 8:], k, v, 5)
    ((_, k, _, how),) = called
    assert k.size(1) == 4 and not how["enable_gqa"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "is_cuda", False)
        assert torch.allclose(y, backends.windowed(q[:, 8:], inputs("full_rows", "grouped")[1], v, 5), atol=1e-6)


def test_on_a_cpu_key_value_heads_are_not_repeated(monkeypatch):
    seen, attention = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        backends.F, "scaled_dot_product_attention", lambda q, k, v, **how: seen.append((k, how)) or attention(q, k, v, **how)
    )
    backends.sdpa(*inputs("full_rows", "grouped"))
    assert [(k.size(1), how["enable_gqa"]) for k, how in seen] == [(2, True)]


@pytest.mark.parametrize("error", [ImportError("no"), OSError("libcudart.so.12"), RuntimeError("undefined symbol"), KeyError("CUDA_HOME")])
def test_package_that_cannot_be_imported_for_any_reason_is_not_there(monkeypatch, error):
    asked = []

    def fail(name):
        asked.append(name)
        raise error

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(backends, "LOADED", {})
    monkeypatch.setattr(backends.importlib, "import_module", fail)
    assert backends.machine(HALF) == (9, ()) and set(asked) == set(PACKAGES)
    with pytest.raises(ValueError, match="flash2, but it cannot be imported; pip install flash-attn"):
        backends.choose("flash2", generation=9, dtype=HALF, head_width=64, packed=True, installed=backends.machine(HALF)[1])


def test_float32_attention_imports_no_package(monkeypatch):
    """None of them could run, and an artifact that is scored may not read them."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(backends, "LOADED", {})
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    assert backends.machine(torch.float32) == (9, ())
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert backends.attend(*inputs("full_rows", "grouped"), name="auto").shape == (2, 12, 4, 8)


@pytest.mark.parametrize(
    "asked, changes, compiled, is_refused",
    [
        ("auto", {}, True, True),
        ("auto", {"loader": "shuffled"}, True, False),
        ("auto", {}, False, False),  # one call per segment, without a mask
        ("sdpa", {}, True, False),  # taken at its word
    ],
)
def test_packed_rows_on_a_gpu_without_a_kernel_are_a_sentence_before_the_run(monkeypatch, asked, changes, compiled, is_refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "machine", lambda dtype: (9, ()))  # torch 2.9 to 2.11, no flash-attn
    settings = replace(SETTINGS, **{"loader": "packed"} | changes)
    if is_refused:
        with pytest.raises(ValueError, match=r"finds no kernel for packed documents, .* torch 2\.12 or flash-attn; set train\.compile"):
            train._backend(asked, settings, "bf16", CONFIG, compiled=compiled)
    else:
        assert train._backend(asked, settings, "bf16", CONFIG, compiled=compiled) == "sdpa"


@pytest.fixture
def graphs(monkeypatch):
    """One entry for every graph that is compiled, by a back end that runs what was traced."""
    torch._dynamo.reset()
    made, compile = [], torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, **options: compile(function, backend=lambda graph, inputs: made.append(1) or graph.forward, **options),
    )
    yield made
    torch._dynamo.reset()


def test_first_graph_is_kept(graphs):
    """Also when an evaluation with rows of another length has come between."""
    settings = replace(SETTINGS, compile="always")
    net = random_model(CONFIG)
    fast, x = loop.loss_of(net, settings, World(0, 1, CPU)), torch.arange(24).view(2, 12)
    first = fast(x, x)
    for length in (5, 7, 9):
        with torch.no_grad():
            net(x[:, :length])
        assert torch.equal(fast(x, x), first)
    assert len(graphs) == 1


def test_lengths_of_cu_seqlens_double_and_are_those_that_priming_makes():
    assert [loaders.padded(segments) for segments in (1, 63, 64, 127, 128, 1000)] == [64, 64, 128, 128, 256, 1024]
    plain = loaders.Batch(torch.zeros(3, 100, dtype=torch.int64), torch.zeros(3, 100, dtype=torch.int64), torch.zeros(64), 40)
    for doublings in range(4):
        cut = plain.evenly_cut(doublings).cu_seqlens
        assert cut.dtype == torch.int32 and len(cut) == 64 << doublings
        assert cut.tolist() == [0, 40, 80, 100, 140, 180, 200, 240, 280] + [300] * (len(cut) - 9)


@pytest.mark.slow
def test_priming_compiles_a_graph_for_each_context_and_recurrence_that_will_occur_together(graphs, monkeypatch):
    """As #2014 has them: 1024 and 2048 without the recurrence, 2048 and 3072 with it."""
    monkeypatch.setattr(loop, "PRIMED_LENGTHS", 1)
    recurrence = {"first_layer": 0, "last_layer": 0, "passes": 2, "start_step": 0, "start_fraction": 0.35}
    net, seen = random_model(replace(CONFIG, vocabulary_size=300, features={"depth_recurrence": recurrence})), []
    settings = replace(SETTINGS, compile="always", priming_steps=1, batch_tokens=256, sequence_length=16)
    batches = loader("progressive")
    batches.set_context(((4, 0.1), (10, 0.7), (16, 1.0)), 32)
    world = World(0, 1, CPU)
    source, step = prefetch.Prefetcher(batches, world, part_tokens=None, is_ahead=False), loop._step
    monkeypatch.setattr(
        loop, "_step", lambda run, parts, *rest: seen.append((parts[0].max_seqlen, loop._loops(run))) or step(run, parts, *rest)
    )
    run = loop.start(net, settings, world)
    loop.prime(run, source, settings, world=world, precision="fp32")
    assert list(dict.fromkeys(seen)) == [(4, False), (10, False), (10, True), (16, True)] and len(graphs) == 4
    assert (batches.longest_segment, batches.since) == (4, None), "and leaves the loader as it was"


@pytest.mark.slow
def test_priming_compiles_every_length_of_cu_seqlens_up_to_eight_times_the_shortest(graphs):
    rows = torch.from_numpy(np.random.default_rng(0).integers(4, 50, (8, 33)))
    batch = loaders.Batch(rows[:, :-1], rows[:, 1:], None, 16).evenly_cut(0)
    settings = replace(SETTINGS, compile="always", priming_steps=1, matrix_learning_rate=0.0)
    world, net = World(0, 1, CPU), random_model(CONFIG)
    run = loop.start(net, settings, world)
    still = SimpleNamespace(changes=(), longest_segment=16)
    source = SimpleNamespace(parts=lambda step: [batch], position=dict, go_to=lambda place: None, loader=still, progress=lambda *_: 1.0)
    loop.prime(run, source, settings, world=world, precision="fp32")
    assert len(graphs) == 4
    for segments in (17, 63, 64, 200, 500):
        run.loss(batch.inputs, batch.targets, torch.full((loaders.padded(segments),), 256, dtype=torch.int32), 16)
    assert len(graphs) == 4
    run.loss(batch.inputs, batch.targets, torch.full((loaders.padded(512),), 256, dtype=torch.int32), 16)
    assert len(graphs) == 5


@pytest.mark.parametrize("kind", ["default", "pr1855", "naive"])
def test_auto_compiles_what_is_large_enough_to_be_worth_it(kind):
    from stages.recipes import catalog

    tree = params.read(ROOT / "params.yaml")
    tree = tree if kind == "default" else catalog.applied(catalog.values(kind, tree), tree)
    sizes = {name: value for name, value in tree["model"].items() if name != "attention_backend"}
    with torch.device("meta"):
        net = GPT(replace(CONFIG, vocabulary_size=tree["vocabulary"]["size"], **sizes))
    settings = replace(params.section(tree, train.TrainSettings), fused_loss="never")
    assert loop.programs(settings, "cuda", net)["compiled"] == (kind != "default")
    assert not loop.programs(settings, "cpu", net)["compiled"]


class Waits(TorchDispatchMode):
    """Counts the operations for which the host waits for a GPU: a value that Python reads, and a result whose shape depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name in self.WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["shuffled", "packed"])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("scope", ["process", "global"])
def test_a_step_waits_for_the_device_once(kind, processes, scope, monkeypatch):
    """Parts of packed rows, both optimizers, clipping, averages, the loss and the clock of several processes."""
    finished, tolist = SimpleNamespace(wait=lambda: None), torch.Tensor.tolist
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: finished)
    monkeypatch.setattr(muon, "reduce_scatter", lambda own, sent, **_: (own.copy_(sent[: len(own)]), finished)[1])
    monkeypatch.setattr(muon, "all_gather", lambda out, own, **_: (out.copy_(torch.cat([own, own])), finished)[1])
    net, world = random_model(replace(CONFIG, vocabulary_size=64)), World(0, processes, CPU)
    settings = replace(SETTINGS, gradient_clip_scope=scope, split=replace(SETTINGS.split, layers=1, rate=0.5))
    net.attention_backend = "plain"  # on a CPU sdpa goes through the segments one by one; the kernels of a GPU do not
    run = loop.start(net, settings, world)
    source = prefetch.Prefetcher(loader(kind), world, part_tokens=BATCH // 4, is_ahead=False)
    waits = Waits()

    def step(number: int) -> None:
        parts = source.parts(number)  # from here on everything is on the device
        for part in parts:
            part.inputs.remainder_(64)
            part.targets.remainder_(64)
        with waits, monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "tolist", lambda tensor: waits.found.append("tolist") or tolist(tensor))
            value = loop._step(run, parts, loop.moment_of(run, settings, 1.0, 0.5), world, "fp32")
            nats, seconds = loop._arrived(value, 7.5, world)
        assert nats > 1 and seconds == 7.5

    for number in range(2):
        step(number)
        assert len(waits.found) == number + 1, waits.found


def test_loss_that_is_not_a_number_ends_the_run_before_anything_is_kept(project, tree, capsys, monkeypatch):
    take = loop._step
    monkeypatch.setattr(loop, "_step", lambda run, *rest: take(run, *rest) * (float("nan") if run.step == 4 else 1.0))
    tree({"train.checkpoint_seconds": 0.0})
    with pytest.raises(SystemExit):
        run_node("train")
    assert "the training loss is nan at step 5; lower train." in capsys.readouterr().err
    (folder,) = (project / "scratch/train").iterdir()
    assert max(path.stem for path in folder.glob("step_*.safetensors")) == "step_000000004"


def test_time_that_a_step_waited_counts_as_training_and_measuring_does_not(project, tree, monkeypatch):
    """A clock that the device moves by 1 s while it is waited for, and measuring on holdout by 100."""
    now, arrived, chunked = [0.0], loop._arrived, loop.window_score.chunked

    def moved(function, seconds):
        def run(*arguments, **options):
            out = function(*arguments, **options)
            now[0] += seconds
            return out

        return run

    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(loop, "_arrived", moved(arrived, 1.0))
    monkeypatch.setattr(loop.window_score, "chunked", moved(chunked, 100.0))
    tree({"train.steps": 5, "train.holdout_every": 2})
    monkeypatch.setattr(launch, "matmul_rate", lambda *_: 1e9)
    run_node("train")
    assert json.loads((project / "artifacts/train/metrics.json").read_text())["train_seconds"] == 5.0


@pytest.mark.parametrize("multipliers", [[1.0] * 5, [0.5, 1.0, 0.5, 1.0, 1.0]])
@pytest.mark.parametrize("shape", [(6, 16), (16, 6)])
def test_updates_of_a_stack_are_those_of_each_matrix_to_the_bit(multipliers, shape):
    generator = torch.Generator().manual_seed(1)
    weights, updates = torch.randn(5, *shape, generator=generator), torch.randn(6, *shape[::-1], generator=generator).mT
    stack = muon.Stack([*"abcde"], [torch.nn.Parameter(w.clone()) for w in weights], multipliers, World(0, 1, CPU), shape[0], [])
    with torch.no_grad():
        stack.write(updates, rate=0.03, weight_decay=0.1)
    factor = max(1.0, shape[0] / shape[1]) ** 0.5
    for found, weight, update, multiplier in zip(stack.weights, weights, updates, multipliers, strict=False):
        own = 0.03 * multiplier
        assert torch.equal(found, weight.clone().mul_(1 - own * 0.1).add_(update, alpha=-own * factor))


@pytest.mark.parametrize("kind", ["shuffled", "packed"])
@pytest.mark.parametrize("parts", [1, 4])
def test_what_is_pinned_has_no_gaps_and_is_the_batch(kind, parts, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(loaders.Batch, "to", lambda batch, device: batch)
    on_gpu, plain = (
        prefetch.Prefetcher(loader(kind), World(0, 1, torch.device(device)), part_tokens=BATCH // parts, is_ahead=False).parts(1)
        for device in ("cuda", "cpu")
    )
    assert len(pinned) == parts * (3 if kind == "packed" else 2) and all(tensor.is_contiguous() for tensor in pinned)
    for part, wanted in zip(on_gpu, plain, strict=True):
        for name, value in asdict(wanted).items():
            found = getattr(part, name)
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    assert T > 1 and (parts == 4 or not plain[0].inputs.is_contiguous())  # else the test could not fail


def test_speed_of_products_is_measured_with_numbers_that_differ():
    class Operands(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ == "mm":
                seen.extend(args)
            return func(*args, **(kwargs or {}))

    seen, state = [], torch.get_rng_state()
    with Operands():
        assert launch.matmul_rate(CPU, torch.float32) > 0
    for operand in seen[:2]:
        assert operand.std() == pytest.approx(1, abs=0.01) and len(operand.unique()) > 900_000
    assert not torch.equal(seen[0], seen[1]) and torch.equal(torch.get_rng_state(), state)


ONE_FAILS = """
import os, time, torch
from stages.lib.node import command, launch

def run():
    with launch.world("cpu", section="train") as world:
        torch.distributed.barrier()
        if world.rank == 1:
            raise {error}
        {others}

try:
    with command.sentences("train"):
        run()
finally:
    if os.environ["RANK"] == "1":
        time.sleep({lingers})  # as a process does that cannot leave its group
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "error, others, lingers, said",
    [
        pytest.param(
            "ValueError('this machine has no room')",
            "torch.distributed.barrier()",
            8,
            "",
            id="the others wait in a collective",
            marks=pytest.mark.slow,
        ),
        pytest.param("ValueError('this machine has no room')", "time.sleep(60)", 8, "", id="the others compute", marks=pytest.mark.slow),
        pytest.param(
            "ValueError('this machine has no room')", "raise ValueError('another error')", 0, "", id="all fail", marks=pytest.mark.slow
        ),
        pytest.param("KeyError('x')", "torch.distributed.barrier()", 0, "KeyError: 'x'", id="a bug"),
    ],
)
def test_when_one_process_fails_the_others_end_with_its_sentence(tmp_path, error, others, lingers, said):
    (tmp_path / "one_fails.py").write_text(ONE_FAILS.format(error=error, others=others, lingers=lingers))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "one_fails.py"],
            cwd=tmp_path,
            env=os.environ | shared | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        begun = f"caddie train: 2 processes meet at 127.0.0.1:{port}\n"
        err = processes[0].communicate(timeout=30)[1].removeprefix(begun)
        assert processes[0].returncode == 1
        if "another error" in others:  # whichever was first
            assert err.startswith("caddie train: ") and len(err.strip().splitlines()) == 1
        else:
            assert err == f"caddie train: process 1 failed, and all others end with it: {said or 'ValueError: this machine has no room'}\n"
            assert lingers == 0 or processes[1].poll() is None, "it ended before the other process was gone"
        own = processes[1].communicate(timeout=30)[1].removeprefix(begun)
        assert processes[1].returncode == 1
        assert said in own if said else own.startswith("caddie train: ") and len(own.strip().splitlines()) == 1
    finally:
        for process in processes:
            process.kill()
