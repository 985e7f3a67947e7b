"""Rounding in the forward pass: the formulas, when it is on, and what it leaves alone."""

import pytest
import torch

from stages.lib.node.launch import World
from stages.runtime.network import gpt
from stages.train import qat
from stages.train.settings import Quantization
from tests.conftest import run_node
from tests.test_features import config
from tests.test_stacks import documents, random_model

SETTINGS = {
    "form": "straight_through",
    "bits": 6,
    "threshold": 0.15,
    "earliest_step": 0,
    "ramp_steps": 10,
    "scope": "matrices",
    "min_step": 0.0,
}
ALONE = World(0, 1, torch.device("cpu"))


def weight(seed=0):
    return torch.nn.Parameter(torch.randn(5, 9, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("bits, min_step", [(6, 0.0), (3, 0.0), (6, 1 / 31), (8, 0.5)])
def test_straight_through_rounds_each_row_to_its_grid_with_the_identity_as_gradient(bits, min_step):
    w, limit = weight(), 2 ** (bits - 1) - 1
    out = qat.straight_through(w, bits=bits, min_step=min_step)
    for row, rounded in zip(w.detach(), out.detach(), strict=True):
        step = max(row.abs().max().item() / limit, min_step)
        codes = rounded / step
        assert torch.allclose(codes, codes.round(), atol=1e-4) and codes.abs().max() <= limit + 1e-4
        assert ((rounded - row).abs() <= step / 2 + 1e-6).all()
    out.backward(torch.ones_like(out) * 3)
    assert torch.equal(w.grad, torch.full_like(w, 3.0))


@pytest.mark.parametrize("sharpness", [1.0, 16.0])
def test_soft_round_is_the_formula_and_its_gradient_the_true_one(sharpness):
    w = weight().double().detach().requires_grad_(True)
    options = {"bits": 4, "min_step": 0.0}
    out = qat.soft_round(w, torch.tensor(sharpness, dtype=torch.float64), **options)
    step = w.detach().abs().amax(dim=1, keepdim=True) / 7
    codes = w.detach() / step
    below = torch.floor(codes)
    expected = step * (below + 1 / (1 + torch.exp(-sharpness * (codes - below - 0.5)))).clamp(-7, 7)
    assert torch.allclose(out, expected)
    direction, small = torch.randn(5, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 1e-6
    (out * direction).sum().backward()
    moved = w.detach() + small * direction
    near = (moved.abs().amax(1, keepdim=True) / 7, w.detach().abs().amax(1, keepdim=True) / 7)
    same_cell = torch.floor(moved / near[0]) == torch.floor(w.detach() / near[1])
    assert same_cell.all()
    change = ((qat.soft_round(moved, torch.tensor(sharpness, dtype=torch.float64), **options) - out.detach()) * direction).sum() / small
    assert change.item() == pytest.approx((w.grad * direction).sum().item(), rel=1e-3)


def test_it_starts_when_the_rate_is_low_and_late_enough_and_sharpens_over_its_ramp():
    rounding = qat.Rounding(random_model(config()), Quantization(**(SETTINGS | {"form": "soft_round", "earliest_step": 20})))
    seen = {}
    for step, scale in ((0, 0.1), (19, 0.1), (20, 0.2), (21, 0.14), (26, 0.1), (31, 0.1), (99, 0.1)):
        rounding.progress(step, scale)
        seen[step] = (rounding.started_at, round(rounding.sharpness.item(), 4))
    assert seen == {0: (None, 1.0), 19: (None, 1.0), 20: (None, 1.0), 21: (21, 1.0), 26: (21, 8.5), 31: (21, 16.0), 99: (21, 16.0)}


@pytest.mark.parametrize("scope", ["matrices", "projections"])
def test_the_forward_pass_rounds_inside_the_block_only_and_what_the_scope_names(scope):
    net, (x, _) = random_model(config("value_embedding")), documents()
    rounding = qat.Rounding(net, Quantization(**(SETTINGS | {"scope": scope, "bits": 3})))
    plain = net(x)
    with rounding.active():
        assert torch.equal(net(x), plain)  # not started yet
    rounding.progress(0, 0.1)
    with rounding.active():
        rounded = net(x)
    assert torch.equal(net(x), plain) and not torch.allclose(rounded, plain, atol=1e-3)
    by_hand = random_model(config("value_embedding"))
    with torch.no_grad():
        for name, layer in gpt.matrices(by_hand).items():
            if scope == "matrices" or name == "value_embedding.projection":
                layer.weight.copy_(qat.straight_through(layer.weight, bits=3, min_step=0.0))
    assert torch.allclose(by_hand(x), rounded, atol=1e-5)


@pytest.mark.slow
def test_it_compiles_to_one_graph_and_a_sharper_rounding_compiles_nothing_anew():
    torch._dynamo.reset()
    net, (x, _) = random_model(config()), documents()
    rounding = qat.Rounding(net, Quantization(**(SETTINGS | {"form": "soft_round"})))
    rounding.progress(0, 0.1)
    graphs, _ = [], net(x)  # the angles are cached
    fast = torch.compile(net, fullgraph=True, backend=lambda graph, inputs: graphs.append(1) or graph.forward)
    outputs = []
    for step in (0, 5, 10):
        rounding.progress(step, 0.1)
        with rounding.active():
            outputs.append((fast(x), net(x)))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in outputs) and not torch.allclose(outputs[0][0], outputs[2][0], atol=1e-4)
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["straight_through", pytest.param("soft_round", marks=pytest.mark.slow)])
def test_training_with_rounding_ends_with_other_weights_and_continues_to_the_same_bytes(project, tree, form, monkeypatch):
    plain = (project / "artifacts/train/model.safetensors").read_bytes()
    tree({"train.qat.form": form, "train.qat.threshold": 0.7, "train.checkpoint_seconds": 0.0})
    run_node("train")
    rounded = (project / "artifacts/train/model.safetensors").read_bytes()
    assert rounded != plain
    from stages.train import loop

    take, steps = loop._step, []

    def die(run, *rest):
        steps.append(run.step)
        if run.step == 9 and len(steps) < 11:
            raise KeyboardInterrupt
        return take(run, *rest)

    monkeypatch.setattr(loop, "_step", die)
    with pytest.raises(SystemExit):
        run_node("train")
    run_node("train")
    assert (project / "artifacts/train/model.safetensors").read_bytes() == rounded and 9 in steps[10:]
