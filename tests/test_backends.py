"""Attention back ends: each equals the formula, `auto` chooses as said, and what cannot run is refused, never replaced."""

import inspect
import json
import math
import os
import subprocess
import sys
import types

import pytest
import torch

from stages.lib.node import launch, params
from stages.runtime.network import backends
from stages.runtime.network.gpt import GPT
from stages.train import __main__ as train
from tests.conftest import ROOT, run_node
from tests.test_stacks import documents, random_model, small

HEADS = {"grouped": (4, 2), "one_for_all": (3, 1), "each_its_own": (2, 2)}
LAYOUTS = {  # rows, tokens of a row, and where segments start in the flattened rows, then their end
    "full_rows": (2, 12, None),
    "several": (1, 24, [0, 5, 6, 15, 18, 24]),
    "empty_segments": (1, 24, [0, 0, 5, 5, 5, 18, 24, 24]),
    "length_one": (1, 6, [0, 1, 2, 3, 4, 5, 6]),
    "one_segment": (1, 12, [0, 12]),
    "two_rows": (2, 12, [0, 3, 12, 13, 24]),
    "padded": (2, 12, [0, 7, 12, 20] + [24] * 60),  # 64 entries, as published
}
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
HALF = torch.bfloat16
TOLERANCE = 2e-2  # bfloat16 keeps 8 bits: values of order one are rounded by up to 4e-3, once in the kernel's weights and once at its end


@pytest.fixture(autouse=True)
def as_it_was():
    loaded = dict(backends.LOADED)
    yield
    backends.LOADED.clear()
    backends.LOADED.update(loaded)
    torch._dynamo.reset()


def inputs(layout: str, heads: str, *, width: int = 8, device: str = "cpu", dtype=torch.float32):
    rows, tokens, starts = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(5)
    q, k, v = (
        torch.randn(rows, tokens, n, width, generator=generator).to(device, dtype).requires_grad_()
        for n in (HEADS[heads][0], HEADS[heads][1], HEADS[heads][1])
    )
    return q, k, v, None if starts is None else torch.tensor(starts, dtype=torch.int32, device=device), tokens


def outputs_and_gradients(program, q, k, v, *rest):
    y = program(q, k, v, *rest)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(6)).to(y)
    return y, *torch.autograd.grad((y * direction).sum(), (q, k, v))


def assert_equal_to_plain(program, arguments, tolerance):
    expected = outputs_and_gradients(backends.plain, *(x.detach().float().requires_grad_() for x in arguments[:3]), *arguments[3:])
    for found, wanted in zip(outputs_and_gradients(program, *arguments), expected, strict=True):
        assert found.dtype == arguments[0].dtype and found.shape == wanted.shape
        assert torch.allclose(found.float(), wanted, atol=tolerance * max(1.0, wanted.abs().max().item()), rtol=0)


def chosen(name):
    return lambda *arguments: backends.attend(*arguments, name=name)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_is_the_formula(layout, heads):
    """Written out in loops, one query at a time."""
    rows, tokens, starts = LAYOUTS[layout]
    *qkv, cu_seqlens, _ = inputs(layout, heads)
    q, k, v = (x.detach() for x in qkv)
    starts = [row * tokens for row in range(rows + 1)] if starts is None else starts
    y = backends.plain(q, k, v, cu_seqlens, tokens).flatten(0, 1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    for t in range(rows * tokens):
        first = max(start for start in starts if start <= t)
        for head in range(q.size(1)):
            group = head * k.size(1) // q.size(1)
            weights = [math.exp(float(q[t, head] @ k[s, group]) / math.sqrt(8)) for s in range(first, t + 1)]
            expected = sum(w / sum(weights) * v[s, group] for w, s in zip(weights, range(first, t + 1), strict=True))
            assert torch.allclose(y[t, head], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "auto"])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_back_end_and_its_gradients_equal_the_formula(layout, heads, name):
    assert_equal_to_plain(chosen(name), inputs(layout, heads), 1e-5)


@pytest.mark.parametrize("name", ["plain", "sdpa"])
@pytest.mark.parametrize("layout", ["full_rows", "empty_segments", "padded"])
def test_back_end_compiles_to_one_graph(layout, name):
    arguments = inputs(layout, "grouped")
    fast = torch.compile(chosen(name), fullgraph=True, backend="eager")
    assert_equal_to_plain(fast, arguments, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "sdpa", "auto"])
def test_stack_with_packed_documents_compiles_to_one_graph(name):
    """With recurrence, skips, lanes and gates; another list of segments of the same length does not compile again."""
    from torch._dynamo.testing import CompileCounter

    net, (x, cu_seqlens) = random_model(small("1855")), documents()
    net.attention_backend = name
    net(x)  # fills the cache of rotary angles, which is a guard
    counter = CompileCounter()
    fast = torch.compile(net, fullgraph=True, backend=counter)
    for starts in (cu_seqlens, torch.tensor([0, 2, 2, 10], dtype=torch.int32)):
        assert torch.allclose(fast(x, starts), net(x, starts), atol=1e-5)
    assert counter.frame_count == 1


def test_plain_is_float32_under_autocast_too():
    arguments = inputs("several", "grouped")
    with torch.autocast("cpu", HALF):
        y = backends.plain(*arguments)
    assert y.dtype == torch.float32 and torch.allclose(y, backends.sdpa(*arguments), atol=1e-5)


EVERY = ("varlen", "flash2", "flash3", "flash4")
GPU = {"generation": 9, "dtype": HALF, "head_width": 64, "packed": True, "installed": EVERY}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "flash3"),
        ({"dtype": torch.float16}, "flash3"),
        ({"packed": False}, "flash3"),
        ({"generation": 8}, "flash2"),
        ({"generation": 10}, "flash4"),
        ({"generation": 11}, "flash4"),
        ({"generation": 12}, "flash2"),
        ({"installed": ("varlen", "flash2", "flash4")}, "flash2"),
        ({"installed": ("varlen", "flash4")}, "varlen"),
        ({"generation": 10, "installed": ("varlen", "flash2", "flash3")}, "flash2"),
        ({"installed": ("varlen",), "packed": False}, "sdpa"),
        ({"installed": ()}, "sdpa"),
        ({"generation": 0, "installed": ()}, "sdpa"),
        ({"generation": 0}, "sdpa"),
        ({"generation": 7}, "sdpa"),
        ({"generation": 13}, "sdpa"),
        ({"dtype": torch.float32}, "sdpa"),
        ({"head_width": 12}, "sdpa"),
        ({"head_width": 264}, "sdpa"),
    ],
    ids=str,
)
def test_auto_takes_what_suits_the_machine(changes, expected):
    assert backends.choose("auto", **GPU | changes) == expected


@pytest.mark.parametrize("name", backends.NAMES[1:])
def test_name_is_taken_at_its_word(name):
    for packed in (True, False):
        assert backends.choose(name, **GPU | {"packed": packed}) == name


@pytest.mark.parametrize(
    "name, changes, sentence",
    [
        (
            "flash3",
            {"generation": 0},
            r"flash3, but it needs a GPU of compute capability 9\.0 to 9\.x and this is a CPU, or set .* to auto",
        ),
        ("flash3", {"generation": 10}, r"capability 9\.0 to 9\.x and this is one of generation 10"),
        ("flash4", {"generation": 8}, r"capability 9\.0 to 12\.x and this is one of generation 8"),
        ("varlen", {"generation": 0}, "and this is a CPU"),
        ("flash2", {"generation": 7}, r"capability 8\.0 to 12\.x"),
        ("flash2", {"dtype": torch.float32}, r"needs half precision and this is torch\.float32; set train\.precision to bf16"),
        ("varlen", {"head_width": 12}, r"needs a head width that 8 divides, up to 256, and this is 12; change model\.width"),
        ("flash2", {"installed": ()}, "pip install flash-attn --no-build-isolation"),
        ("flash3", {"installed": ("flash2",)}, "install flash-attn-3 from"),
        ("flash4", {"installed": ()}, r"cannot be imported; pip install '\.\[flash\]', or set model\.attention_backend to auto"),
        ("varlen", {"installed": ()}, "newer torch"),
        ("flash5", {}, r"is 'flash5'; it takes auto \| plain \| sdpa"),
    ],
)
def test_name_that_cannot_run_here_is_one_sentence_with_a_way_out(name, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        backends.choose(name, **GPU | changes)


def test_forced_name_is_not_replaced_in_the_model():
    net, (x, cu_seqlens) = random_model(small("naive")), documents()
    for name in EVERY:
        net.attention_backend = name
        for arguments in ((), (cu_seqlens,)):
            with pytest.raises(ValueError, match=f"model.attention_backend is {name}, but it needs a GPU"):
                net(x, *arguments)


def test_params_take_exactly_the_names_that_there_are():
    assert inspect.get_annotations(train.Model)["attention_backend"].__args__ == backends.NAMES


class Recorder:
    """A package of kernels that notes how it is called and computes with `plain`."""

    def __init__(self, monkeypatch, module: str, *, returns_pair: bool):
        self.calls, self.returns_pair = [], returns_pair
        fake = types.ModuleType(module)
        fake.flash_attn_func, fake.flash_attn_varlen_func = self.rows, self.segments
        for parent in range(1, module.count(".") + 1):
            monkeypatch.setitem(sys.modules, module.rsplit(".", parent)[0], types.ModuleType(module.rsplit(".", parent)[0]))
        monkeypatch.setitem(sys.modules, module, fake)
        backends.LOADED.clear()

    def rows(self, q, k, v, *, causal=False):
        assert causal and q.ndim == k.ndim == v.ndim == 4
        self.calls.append(("rows", q, k, v))
        return self.packed(backends.plain(q, k, v, None, q.size(1)))

    def segments(self, q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False):
        assert causal and q.ndim == k.ndim == v.ndim == 3
        assert cu_seqlens_q is cu_seqlens_k and cu_seqlens_q.dtype == torch.int32
        assert type(max_seqlen_q) is int and max_seqlen_q == max_seqlen_k >= cu_seqlens_q.diff().max()
        self.calls.append(("segments", q, k, v))
        return self.packed(backends.plain(q[None], k[None], v[None], cu_seqlens_q, max_seqlen_q)[0])

    def packed(self, y):
        return (y, torch.zeros(1)) if self.returns_pair else y


@pytest.mark.parametrize("returns_pair", [False, True])
@pytest.mark.parametrize(
    "name, module",
    [
        ("flash2", "flash_attn"),
        ("flash3", "flash_attn_interface"),
        ("flash3", "flash_attn_3.flash_attn_interface"),
        ("flash4", "flash_attn.cute"),
    ],
)
@pytest.mark.parametrize("layout", ["full_rows", "empty_segments", "two_rows", "padded"])
def test_flash_is_called_as_its_package_declares(monkeypatch, layout, name, module, returns_pair):
    package = Recorder(monkeypatch, module, returns_pair=returns_pair)
    arguments = inputs(layout, "grouped")
    assert_equal_to_plain(lambda *a: backends.flash(*a, name=name), arguments, 1e-6)
    ((kind, q, k, v),) = package.calls
    assert kind == ("rows" if layout == "full_rows" else "segments")
    assert (q.size(-2), k.size(-2), v.size(-2)) == (4, 2, 2) and q.size(-1) == 8  # key/value heads are not repeated
    assert torch.equal(q.flatten(), arguments[0].flatten()) and q.dtype == k.dtype == v.dtype == torch.float32


@pytest.mark.parametrize("layout", ["full_rows", "padded"])
def test_forced_flash_reaches_every_layer_of_the_model_in_half_precision(monkeypatch, layout):
    package = Recorder(monkeypatch, "flash_attn_interface", returns_pair=True)
    monkeypatch.setattr(backends, "choose", lambda name, **_: name)  # the choice itself is tested above; here is no GPU
    rows, tokens, starts = LAYOUTS[layout]
    net, x = random_model(small("1855")), torch.randint(4, 40, (rows, tokens), generator=torch.Generator().manual_seed(0))
    cu_seqlens = None if starts is None else torch.tensor(starts, dtype=torch.int32)
    with torch.no_grad(), torch.autocast("cpu", HALF):
        net.attention_backend = "plain"
        expected = net(x, cu_seqlens)
        net.attention_backend = "flash3"
        assert torch.equal(net(x, cu_seqlens), expected)
    assert len(package.calls) == 17 and {tensor.dtype for _, *call in package.calls for tensor in call} == {HALF}


def test_machine_without_packages_has_none_and_half_a_package_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for module in ("flash_attn", "flash_attn.cute", "flash_attn_3", "flash_attn_3.flash_attn_interface", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, module, None)
    backends.LOADED.clear()
    assert backends.machine(HALF) == (9, ("varlen",) if backends.kernels("varlen") else ())
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))  # what flash-attn-4 alone leaves
    backends.LOADED.clear()
    assert "flash2" not in backends.machine(HALF)[1]


def test_choice_of_a_gpu_is_part_of_one_graph(monkeypatch):
    """The look at the machine runs while torch.compile traces, and is no break."""
    Recorder(monkeypatch, "flash_attn_interface", returns_pair=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))

    def attend(q, k, v, cu_seqlens, tokens):
        generation, installed = backends.machine(HALF)
        name = backends.choose("auto", generation=generation, dtype=HALF, head_width=8, packed=True, installed=installed)
        return backends.flash(q, k, v, cu_seqlens, tokens, name=name)

    segments = lambda q, k, v, *, cu_seqlens_q, max_seqlen_q, **_: (  # noqa: E731
        backends.plain(q[None], k[None], v[None], cu_seqlens_q, max_seqlen_q)[0],
        torch.zeros(1),
    )
    sys.modules["flash_attn_interface"].flash_attn_varlen_func = segments
    assert_equal_to_plain(torch.compile(attend, fullgraph=True, backend="eager"), inputs("padded", "grouped"), 1e-5)


def test_torchs_kernel_is_called_as_this_torch_declares_it(monkeypatch):
    if not backends.kernels("varlen"):
        pytest.skip("this torch has no variable-length attention of the signature that is used")
    declared, seen = inspect.signature(backends.kernels("varlen")[0]), []

    def kernel(*arguments, **options):
        given = declared.bind(*arguments, **options).arguments
        assert given["window_size"] == (-1, 0) and given["cu_seq_q"] is given["cu_seq_k"] and given["max_q"] == given["max_k"]
        assert given["enable_gqa"] == (given["query"].size(1) != given["key"].size(1))
        assert all(given[name].ndim == 3 and given[name].is_contiguous() for name in ("query", "key", "value"))
        seen.append(given["cu_seq_q"])
        return backends.plain(*(given[name][None] for name in ("query", "key", "value")), given["cu_seq_q"], given["max_q"])[0]

    monkeypatch.setitem(backends.LOADED, "varlen", (kernel,))
    for heads in HEADS:
        for layout in LAYOUTS:
            assert_equal_to_plain(backends.varlen, inputs(layout, heads), 1e-6)
    assert {starts.dtype for starts in seen} == {torch.int32} and [0, 12, 24] in [starts.tolist() for starts in seen]


@pytest.mark.parametrize("name", ["plain", "sdpa"])
def test_training_says_which_back_end_it_used_and_the_weights_do_not_remember(project, tree, capsys, name):
    before = json.loads((project / "artifacts/train/metrics.json").read_text())
    assert before["attention_backend"] == "sdpa" and before["precision"] == "fp32"  # of auto, on a CPU
    kept = (project / "artifacts/train/model.safetensors").read_bytes()
    tree({"model.attention_backend": name, "train.device": "cpu"})
    run_node("train")
    assert f"attention by {name}, " in capsys.readouterr().err
    assert json.loads((project / "artifacts/train/metrics.json").read_text())["attention_backend"] == name
    after = (project / "artifacts/train/model.safetensors").read_bytes()
    assert (after == kept) == (name == "sdpa") and b"attention_backend" not in after


def test_checkpoint_of_another_back_end_is_not_picked_up():
    values = params.read(ROOT / "params.yaml")
    rest = (
        params.section(values, train.TrainSettings),
        small("naive"),
        *[types.SimpleNamespace(facts={})] * 2,
        launch.World(0, 1, torch.device("cpu")),
    )
    assert len({train._key(*rest, name) for name in backends.NAMES}) == len(backends.NAMES)


def test_training_with_a_back_end_that_cannot_run_ends_before_it_begins(project, tree):
    """From one process, also where several would train."""
    tree({"model.attention_backend": "flash3", "train.device": "cpu", "train.processes": 2})
    done = subprocess.run(
        [sys.executable, "-m", "stages.train"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1 and done.stderr.startswith("caddie train: model.attention_backend is flash3, but it needs a GPU")
    assert len(done.stderr.strip().splitlines()) == 1


def test_every_model_is_built_with_auto():
    with torch.device("meta"):
        assert GPT(small("naive")).attention_backend == "auto"


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("name", ["auto", "plain", "sdpa", *EVERY])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_gpu_back_end_and_its_gradients_equal_the_formula(layout, heads, name):
    generation, installed = backends.machine(HALF)
    if name in EVERY and not (generation in backends.RUNS_ON[name] and name in installed):
        pytest.skip(f"{name} cannot run on this machine")
    assert_equal_to_plain(chosen(name), inputs(layout, heads, width=64, device="cuda", dtype=HALF), TOLERANCE)


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("name", ["auto", "varlen", "flash2", "flash3"])
def test_on_a_gpu_back_end_compiles_to_one_graph(name):
    generation, installed = backends.machine(HALF)
    if name in EVERY and not (generation in backends.RUNS_ON[name] and name in installed):
        pytest.skip(f"{name} cannot run on this machine")
    arguments = inputs("padded", "grouped", width=64, device="cuda", dtype=HALF)
    assert_equal_to_plain(torch.compile(chosen(name), fullgraph=True, backend="eager"), arguments, TOLERANCE)
