"""Muon and AdamW against their formulas written out; which parameter is moved by which; several processes as one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from stages.lib.node import params
from stages.lib.node.launch import World
from stages.runtime.network.gpt import GPT
from stages.train import optimizers, techniques
from stages.train.optim import orthogonalise as orthogonalise_module
from stages.train.optim.adamw import AdamW, Group
from stages.train.optim.adamw import Options as AdamWOptions
from stages.train.optim.muon import Muon, Options
from stages.train.optim.orthogonalise import BOUNDS, COEFFICIENTS, orthogonalise
from stages.train.settings import TrainSettings
from tests.conftest import ROOT, SIMPLE_TRAINING, set_leaf
from tests.test_features import config
from tests.test_stacks import documents, random_model

ALONE = World(0, 1, torch.device("cpu"))
PLAIN = Options(
    momentum=0.9,
    momentum_start=0.9,
    momentum_warmup_steps=0,
    iterations=5,
    coefficients="classical",
    bound="frobenius",
    row_normalize=False,
    neuron_beta2=0.0,
    paired_heads=False,
    projections=(),
)


def settings(**changes) -> TrainSettings:
    tree = params.read(ROOT / "params.yaml")
    for path, value in SIMPLE_TRAINING.items():
        set_leaf(tree, path, value)
    for path, value in changes.items():
        section = tree["train"]
        *parents, leaf = path.split("__")
        for parent in parents:
            section = section[parent]
        assert leaf in section
        section[leaf] = value
    return params.section(tree, TrainSettings)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moved(options=PLAIN, *, shapes=((12, 6),), steps=3, rate=0.1, decay=0.2, multipliers=None):
    """Weights by name before and after some steps with a constant gradient each."""
    weights = {f"w{i}": torch.nn.Parameter(random(*shape, seed=i)) for i, shape in enumerate(shapes)}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    muon = Muon(weights, options, world=ALONE, multipliers=multipliers)
    for _ in range(steps):
        for i, weight in enumerate(weights.values()):
            weight.grad = random(*weight.shape, seed=100 + i)
        muon.start()
        muon.step(rate=rate, momentum=options.momentum, weight_decay=decay)
    return before, {name: weight.detach() for name, weight in weights.items()}


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
@pytest.mark.parametrize("coefficients, low, high", [("classical", 0.6, 1.25), ("polar_express", 0.85, 1.15)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_singular_vectors(shape, coefficients, low, high):
    generator, rank = torch.Generator().manual_seed(0), min(shape)
    u = torch.linalg.qr(torch.randn(3, shape[0], rank, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(3, shape[1], rank, generator=generator)).Q
    out = orthogonalise(u @ torch.diag(torch.linspace(0.1, 1.0, rank)) @ v.mT, coefficients=coefficients)
    values = torch.linalg.svdvals(out)
    assert values.min() > low and values.max() < high
    turned = u.mT @ out @ v  # diagonal in the basis of the input's singular vectors
    assert (turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4


@pytest.mark.parametrize("bound, power", [("frobenius", 2), ("schatten8", 8)])
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_orthogonalise_is_the_polynomial_on_singular_values(coefficients, bound, power):
    """Scalars go through the same iteration as matrices do along their singular values; the sixth repeats the last triple."""
    values = np.array([0.9, 0.3, 0.05])
    diagonal = torch.diag(torch.tensor(values, dtype=torch.float64))[None]
    out = orthogonalise(diagonal, coefficients=coefficients, iterations=6, bound=bound)[0]
    x = values / np.linalg.norm(values, power)
    for i in range(6):
        a, b, c = COEFFICIENTS[coefficients][min(i, len(COEFFICIENTS[coefficients]) - 1)]
        x = a * x + b * x**3 + c * x**5
    np.testing.assert_allclose(out.diagonal(), x, rtol=1e-5)


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("iterations", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("smallest, error", [(1.0, 1e-5), (0.1, 1e-5), (1e-6, 3e-4), (0.0, 3e-4)])
def test_the_form_through_the_gram_matrix_is_the_plain_one(coefficients, iterations, smallest, error):
    """Also where the smallest singular values are lost in the rounding of their squares, and after more than are taken together."""
    u, v = (torch.linalg.qr(random(3, rows, 48, seed=rows)).Q for rows in (48, 200))
    x = u @ torch.diag(torch.linspace(1.0, smallest ** (1 / 3), 48) ** 3) @ v.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    triples = [COEFFICIENTS[coefficients][min(i, len(COEFFICIENTS[coefficients]) - 1)] for i in range(iterations)]
    wanted = orthogonalise_module.plain(x.double(), *orthogonalise_module.powers(x.double()), triples)
    assert (orthogonalise_module.through_gram(x, *orthogonalise_module.powers(x), triples) - wanted).norm() / wanted.norm() < error


@pytest.mark.parametrize(
    "shape, dtype, form",
    [
        ((16, 25), torch.float32, "through_gram"),
        ((25, 16), torch.float32, "through_gram"),
        ((16, 24), torch.float32, "plain"),
        ((16, 16), torch.float32, "plain"),
        ((16, 99), torch.bfloat16, "plain"),
    ],
)
def test_wide_and_tall_matrices_of_full_precision_go_through_their_gram_matrix(shape, dtype, form, monkeypatch):
    monkeypatch.setattr(orthogonalise_module, "plain" if form == "through_gram" else "through_gram", None)
    out = orthogonalise(random(2, *shape).to(dtype))
    assert out.shape == (2, *shape) and out.dtype == dtype


@pytest.mark.parametrize("shape", [(8, 8), (8, 16), (16, 8)])
def test_a_matrix_of_zeros_stays_one(shape):
    assert all(torch.equal(orthogonalise(torch.zeros(1, *shape), bound=bound), torch.zeros(1, *shape)) for bound in BOUNDS)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("scale", [1000.0, 0.001])
def test_orthogonalise_does_not_depend_on_scale(scale, bound):
    update = random(1, 8, 16)
    assert torch.allclose(orthogonalise(update, bound=bound), orthogonalise(scale * update, bound=bound), atol=1e-3)


@pytest.mark.parametrize("shape", [(192, 832), (832, 192), (192, 192)])
def test_three_iterations_from_the_tighter_bound_reach_at_least_as_far_as_five_from_the_looser(shape):
    u, v = (torch.linalg.qr(random(1, rows, 192, seed=rows)).Q for rows in shape)
    update = u @ torch.diag(torch.linspace(0.02, 1.0, 192)) @ v.mT
    reached = [
        torch.linalg.svdvals(orthogonalise(update, iterations=iterations, bound=bound))[0]
        for iterations, bound in ((3, "schatten8"), (5, "frobenius"), (3, "frobenius"))
    ]
    for values in reached[:2]:
        assert values.max() < 1.25 and values.quantile(0.05) > 0.6
    assert reached[2].quantile(0.05) < 0.5


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("row_normalize", [False, True])
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_muon_step_is_the_formula(row_normalize, coefficients, bound):
    options = replace(PLAIN, iterations=4, coefficients=coefficients, bound=bound, row_normalize=row_normalize)
    before, after = moved(options)
    gradient, buffer, expected = random(12, 6, seed=100), torch.zeros(12, 6), before["w0"]
    for _ in range(3):
        buffer = 0.9 * buffer + gradient
        update = gradient + 0.9 * buffer
        if row_normalize:
            update = update / update.square().sum(dim=1, keepdim=True).sqrt()
        update = orthogonalise(update[None], coefficients=coefficients, iterations=4, bound=bound)[0]
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * math.sqrt(2) * update
    assert torch.allclose(after["w0"], expected, atol=1e-6)


def test_neuron_normalisation_is_the_formula_and_keeps_the_size_of_the_update():
    options = replace(PLAIN, momentum=0.0, momentum_start=0.0, neuron_beta2=0.95)
    weight, second = torch.nn.Parameter(torch.zeros(12, 6)), torch.zeros(12, 1)
    muon = Muon({"w": weight}, options, world=ALONE)
    for step in range(2):
        before, weight.grad = weight.detach().clone(), random(12, 6, seed=step)
        muon.start()
        muon.step(rate=1.0, momentum=0.0, weight_decay=0.0)
        plain = orthogonalise(random(12, 6, seed=step)[None])[0]
        second = 0.95 * second + 0.05 * plain.square().mean(dim=1, keepdim=True)
        scaled = plain / second.sqrt()
        assert torch.allclose(weight - before, -math.sqrt(2) * scaled * plain.norm() / scaled.norm(), atol=1e-4)
        lengths = [(x.norm(dim=1) / x[0].norm() - 1).abs().max() for x in (scaled, plain)]
        assert step or lengths[0] < 1e-4 < lengths[1]  # after one step every row is as long as the others


def test_matrices_of_one_shape_are_updated_as_if_alone():
    _, together = moved(shapes=((6, 6), (6, 6), (8, 4), (6, 6)))
    for i, shape in enumerate(((6, 6), (6, 6), (8, 4), (6, 6))):
        weight = torch.nn.Parameter(random(*shape, seed=i))
        muon = Muon({"alone": weight}, PLAIN, world=ALONE)
        for _ in range(3):
            weight.grad = random(*shape, seed=100 + i)
            muon.start()
            muon.step(rate=0.1, momentum=0.9, weight_decay=0.2)
        assert torch.allclose(together[f"w{i}"], weight, atol=1e-6)


def test_update_does_not_depend_on_the_size_of_the_gradient_and_a_multiplier_applies_to_it():
    before, after = moved(multipliers={"w0": 0.5}, decay=0.0, shapes=((6, 6), (6, 6)))
    before2, after2 = moved(decay=0.0, shapes=((6, 6), (6, 6)))
    assert torch.allclose(after["w0"] - before["w0"], 0.5 * (after2["w0"] - before2["w0"]), atol=1e-6)
    assert torch.equal(after["w1"], after2["w1"])


def test_adamw_step_is_the_formula_and_scales_with_the_schedule():
    weight = torch.nn.Parameter(random(5, seed=1))
    optimizer = AdamW([Group({"w": weight}, 0.1, 0.3)], AdamWOptions(0.8, 0.9, 1e-8), world=ALONE)
    expected, m, v = weight.detach().double().clone(), torch.zeros(5).double(), torch.zeros(5).double()
    for t in range(1, 4):
        gradient = random(5, seed=t)
        weight.grad = gradient.clone()
        optimizer.start()
        optimizer.step(scale=1 / t)
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient.double() ** 2
        expected = expected * (1 - 0.1 / t * 0.3) - 0.1 / t * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
    assert torch.allclose(weight.double(), expected, atol=1e-6)


def test_every_parameter_is_in_the_group_that_its_kind_says():
    net = GPT(config("value_embedding", tied_head=False))
    found = optimizers.members(net, ())
    group_of = {name: group for group, weights in found.items() for name in weights}
    assert set(group_of) == {name for name, _ in net.named_parameters()}
    assert {name: group for name, group in group_of.items() if not name.startswith("blocks.")} == {
        "embedding.weight": "tables",
        "unembedding.weight": "head",
        "value_embedding.table.weight": "tables",
        "value_embedding.projection.weight": "scalars",
        "value_embedding.scale": "scalars",
        "value_embedding.layer_scale": "scalars",
    }
    assert group_of["blocks.0.mlp.up.weight"] == "matrices" and group_of["blocks.0.mlp_scale"] == "scalars"
    found = optimizers.members(net, ("value_embedding",))
    assert "value_embedding.projection.weight" in found["matrices"] and "value_embedding.scale" in found["scalars"]


def one_step(net, chosen, *, scale=1.0, taper=1.0):
    """How far each parameter moves in one step from the same gradients."""
    both = optimizers.Optimizers(net, chosen, ALONE)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    x, _ = documents()
    torch.nn.functional.cross_entropy(net(x)[0], x[0].roll(-1)).backward()
    both.step(scale=scale, momentum=0.9, taper=taper)
    return {name: weight.detach() - before[name] for name, weight in net.named_parameters()}


def net_of():
    return random_model(config("value_embedding", tied_head=False))


def test_each_group_has_its_learning_rate_and_decay():
    plain = settings(matrix_weight_decay=0.0, embedding_weight_decay=0.0, scalar_weight_decay=0.0)
    reference = one_step(net_of(), plain)
    for leaf, member in (
        ("matrix_learning_rate", "blocks.0.mlp.up.weight"),
        ("embedding_learning_rate", "embedding.weight"),
        ("head_learning_rate", "unembedding.weight"),
        ("scalar_learning_rate", "value_embedding.projection.weight"),
    ):
        doubled = settings(matrix_weight_decay=0.0, embedding_weight_decay=0.0, scalar_weight_decay=0.0, **{leaf: 2 * getattr(plain, leaf)})
        changed = one_step(net_of(), doubled)
        assert torch.allclose(changed[member], 2 * reference[member], atol=1e-6) and reference[member].abs().max() > 1e-3, leaf
        others = [name for name in reference if optimizer_group(name) != optimizer_group(member)]
        assert all(torch.equal(changed[name], reference[name]) for name in others)
    for leaf, rate, member in (
        ("matrix_weight_decay", 0.04, "blocks.0.mlp.up.weight"),
        ("embedding_weight_decay", 0.02, "embedding.weight"),
        ("embedding_weight_decay", 0.0, "unembedding.weight"),
        ("scalar_weight_decay", 0.02, "value_embedding.projection.weight"),
    ):
        decays = dict.fromkeys(("matrix_weight_decay", "embedding_weight_decay", "scalar_weight_decay"), 0.0) | {leaf: 0.5}
        changed = one_step(net_of(), settings(**decays))
        start = dict(net_of().named_parameters())[member].detach()
        assert torch.allclose(changed[member] - reference[member], -rate * 0.5 * start, atol=1e-6), leaf


def optimizer_group(name):
    found = optimizers.members(net_of(), ())
    return next(group for group, weights in found.items() if name in weights)


def test_taper_is_of_the_matrices_decay_alone():
    full, half = (one_step(net_of(), settings(scalar_weight_decay=0.1), taper=taper) for taper in (1.0, 0.5))
    start = dict(net_of().named_parameters())
    name, scalar = "blocks.1.attention.query.weight", "blocks.0.mlp_scale"
    assert torch.allclose(half[name] - full[name], 0.04 * 0.1 * 0.5 * start[name], atol=1e-6)
    assert torch.equal(half["embedding.weight"], full["embedding.weight"]) and torch.equal(half[scalar], full[scalar])


@pytest.mark.parametrize("form", ["applied", "published"])
def test_split_rate_moves_the_first_layers_only_where_it_is_applied(form):
    off = {"gradient_clip": 0.0, "matrix_weight_decay": 0.0}
    plain = one_step(net_of(), settings(**off))
    split = one_step(net_of(), settings(split={"layers": 2, "rate": 0.5, "form": form}, **off))
    for name, change in plain.items():
        early = name.startswith(("blocks.0.", "blocks.1.")) and change.ndim == 2
        expected = change * 0.5 if early and form == "applied" else change
        assert torch.allclose(split[name], expected, atol=3e-6), name


def test_adamw_for_the_matrices_is_adamw():
    net = net_of()
    both = optimizers.Optimizers(net, settings(optimizer="adamw"), ALONE)
    assert not both.muon.stacks and len(both.adam.weights) == len(list(net.parameters()))
    moved_by = one_step(net_of(), settings(optimizer="adamw", matrix_weight_decay=0.0))
    step = moved_by["blocks.0.mlp.up.weight"].abs()
    assert step.max().item() == pytest.approx(0.04, rel=1e-2)  # Adam's first step has the size of its rate


@pytest.mark.parametrize("scope", ["global", "process"])
def test_clipping_bounds_the_norm_of_all_gradients(scope):
    net = net_of()
    both = optimizers.Optimizers(net, settings(gradient_clip=0.01, gradient_clip_scope=scope), ALONE)
    for i, weight in enumerate(net.parameters()):
        weight.grad = random(*weight.shape, seed=i)
    both.step(scale=1.0, momentum=0.9, taper=1.0)
    norm = sum(g.square().sum() for g in (*both.muon.gradients(), *both.adam.gradients())).sqrt().item()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_parameter_that_a_step_did_not_use_is_treated_as_having_a_gradient_of_zero():
    net = net_of()
    x, _ = documents()
    torch.nn.functional.cross_entropy(net(x)[0], x[0].roll(-1)).backward()
    net.blocks[0].mlp.up.weight.grad = None
    both, before = optimizers.Optimizers(net, settings(), ALONE), net.blocks[0].mlp.up.weight.detach().clone()
    both.step(scale=1.0, momentum=0.9, taper=1.0)
    assert torch.allclose(net.blocks[0].mlp.up.weight, before * (1 - 0.04 * 0.1), atol=1e-6)


def gradients_of(net, step, rank, size):
    """By parameter, the gradients of one of 1, 2 or 4 processes: the mean of its share of four."""
    parts = torch.Generator().manual_seed(step)
    everyones = {name: torch.randn(4, *weight.shape, generator=parts) for name, weight in net.named_parameters()}
    return {name: parts[rank * 4 // size : (rank + 1) * 4 // size].mean(dim=0) for name, parts in everyones.items()}


def sharded(rank: int, size: int, folder: str, changes: dict, scales: tuple[float, ...] = (1.0,) * 4) -> None:
    """One of several processes: three steps with gradients of its own, times its scale; saved and restored in between."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous_{size}", rank=rank, world_size=size)
    world, chosen, net = World(rank, size, torch.device("cpu")), settings(**changes), net_of()
    both = optimizers.Optimizers(net, chosen, world)
    for step in range(3):
        for weight, gradient in zip(net.parameters(), gradients_of(net, step, rank, size).values(), strict=True):
            weight.grad = scales[rank] * gradient
        both.each("plan", techniques.Moment(step, step / 3, 1.0, 1.0, 0.9, 1.0))
        both.step(scale=1.0, momentum=0.9, taper=1.0)
        if step == 1:
            saved = {name: tensor.clone() for name, tensor in both.state().items()}
            both = optimizers.Optimizers(net, chosen, world)
            both.restore(saved)
    np.savez(f"{folder}/{size}_{rank}.npz", **{name: weight.detach().numpy() for name, weight in net.named_parameters()})
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"muon__neuron_beta2": 0.9, "muon__row_normalize": True, "gradient_clip": 0.0},
        {"techniques": {"soap_muon": {"matrices": "all", "sides": "smaller", "every": 1, "decay": 0.9}}},
    ],
    ids=["clip", "normuon", "soap"],
)
def test_sharded_over_1_2_and_4_processes_the_weights_agree(tmp_path, changes):
    sharded(0, 1, str(tmp_path), changes)
    for size in (2, 4):
        multiprocessing.start_processes(sharded, (size, str(tmp_path), changes), nprocs=size, start_method="spawn")
    alone = np.load(tmp_path / "1_0.npz")
    for size in (2, 4):
        for rank in range(size):
            found = np.load(tmp_path / f"{size}_{rank}.npz")
            assert all(np.allclose(found[name], alone[name], atol=2e-5) for name in alone), (size, rank)
            assert all(np.array_equal(found[name], np.load(tmp_path / f"{size}_0.npz")[name]) for name in alone), "processes part"


@pytest.mark.slow
def test_with_scope_process_each_process_clips_its_own_gradients_before_the_mean(tmp_path):
    """Against one process that is handed the mean of gradients that were clipped one by one; the second's are too small to be."""
    largest, scales = 5.0, (1.0, 0.02)
    changes = {"gradient_clip": largest, "gradient_clip_scope": "process"}
    multiprocessing.start_processes(sharded, (2, str(tmp_path), changes, scales), nprocs=2, start_method="spawn")
    net = net_of()
    both = optimizers.Optimizers(net, settings(gradient_clip=0.0), ALONE)
    for step in range(3):
        total = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
        norms = []
        for rank in range(2):
            own = {name: scales[rank] * gradient for name, gradient in gradients_of(net, step, rank, 2).items()}
            norms.append(math.sqrt(sum(gradient.square().sum().item() for gradient in own.values())))
            for name, gradient in own.items():
                total[name] += min(1.0, largest / norms[rank]) * gradient / 2
        assert norms[0] > 2 * largest > largest > norms[1]
        for name, weight in net.named_parameters():
            weight.grad = total[name]
        both.step(scale=1.0, momentum=0.9, taper=1.0)
    for rank in range(2):
        found = np.load(tmp_path / f"2_{rank}.npz")
        assert all(np.allclose(found[name], weight.detach(), atol=2e-5) for name, weight in net.named_parameters())
