"""The techniques of stages/train/techniques against plain computations, switched off, after a kill, and with several processes."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.lib.tokens.loaders import documents, shuffled
from stages.lib.tokens.stream import Stream
from stages.runtime.base import plugin
from stages.runtime.network.gpt import GPT, initialise
from stages.train import loop, optimizers, techniques
from stages.train.optim.orthogonalise import orthogonalise
from stages.train.prefetch import Prefetcher
from stages.train.techniques import bigram_start
from tests.test_features import PLAIN
from tests.test_optimizers import ALONE, settings

CONFIG = replace(PLAIN, tied_head=False, vocabulary_size=32, num_layers=3, width=16, num_heads=2, num_kv_heads=1, mlp_width=24, rope_dims=4)
STEPS = 8
ON = {  # every technique, with options under which it does something in a few steps
    "bigram_start": {"tokens": 4000, "smoothing": 1.0, "std": 0.2},
    "cautious_decay": {"others": True},
    "dropout": {"rate": 0.2},
    "ema_nesterov": {"strength": 0.6, "decay": 0.9, "start": 0.1, "end": 0.9},
    "epoch_average": {"epochs": 4, "last": 3},
    "epoch_cycles": {"epochs": 4, "last": 2, "floor": 0.05, "least": 0.65},
    "initial_scales": {"taper": 0.3, "spread": 0.125},
    "momentum_cooldown": {"share": 0.5, "end": 0.5},
    "power_cooldown": {"power": 1.2, "start_matrices": 0.2, "start_others": 0.5, "floor": 0.0},
    "row_floor": {"floor": 0.4, "decay": 0.5},
    "second_beta": {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-10},
    "soap_muon": {"matrices": "all", "sides": "smaller", "every": 1, "decay": 0.9},
    "stochastic_depth": {"rate": 0.9},
    "tail_blend": {"start": 0.3, "steps": 3, "share": 0.6},
}
SCHEDULES = {"power_cooldown": {"warmdown": 0.0}, "epoch_cycles": {"warmdown": 0.0}}


def chosen(name=None, **changes):
    named = {} if name is None else {name: ON[name]}
    common = {"steps": STEPS, "batch_tokens": 64, "sequence_length": 16, "embedding_weight_decay": 0.3, "seed": 5}
    common |= {"matrix_learning_rate": 0.04, "embedding_learning_rate": 0.02, "learning_rate_floor": 0.1}  # whatever the default has
    return settings(**(common | {"techniques": named} | SCHEDULES.get(name, {}) | changes))


def started(own):
    """A run that has not begun, and its batches."""
    net = GPT(CONFIG)
    initialise(net, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, weight in net.named_parameters():  # or nothing but the tables would get a gradient in the first step
            if name.endswith(("output.weight", "down.weight")):
                weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(2))
    tokens = np.random.default_rng(0).integers(2, 32, 4000).astype(np.uint16)
    tokens[::50] = 1
    text = Stream([tokens], name="", vocabulary_size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "hardware_of", lambda *_: loop.Hardware(1, 1, 1.0))
        run = loop.start(net, own, ALONE, text)
    loader = shuffled.Loader(text, sequence_length=16, batch_tokens=64, seed=own.seed, section="train")
    return run, Prefetcher(loader, ALONE, part_tokens=32, is_ahead=False)


def trained(run, batches, own, until):
    while run.step < until:
        moment = loop._prepare(run, batches, own, loop.clock_of(own))
        loop._step(run, batches.parts(run.step), moment, ALONE, "fp32")
        run.step += 1
    return {name: weight.clone() for name, weight in run.weights().items()}


def test_every_technique_is_tested_here():
    assert list(ON) == plugin.names_in(techniques.__name__)


@pytest.mark.parametrize("name", ON)
def test_a_technique_does_something_and_continues_to_the_same_bytes(name):
    own = chosen(name)
    run, batches = started(own)
    whole, averages = trained(run, batches, own, STEPS), run.optimizers.averages()
    run, batches = started(own)
    trained(run, batches, own, 4)
    saved = {key: tensor.clone() for key, tensor in loop.state(run).items()}, loop.facts_of(run, batches)
    again, batches = started(own)
    loop.restore(again, batches, *saved)
    resumed = trained(again, batches, own, STEPS)
    assert all(torch.equal(resumed[key], weight) for key, weight in whole.items())
    for average, weights in averages.items():
        found = again.optimizers.averages()[average]
        assert all(torch.equal(found[key], weight) for key, weight in weights.items())
        assert any(not torch.equal(whole[key], weight) for key, weight in weights.items())
    plain = trained(*started(chosen(**SCHEDULES.get(name, {}))), chosen(**SCHEDULES.get(name, {})), STEPS)
    assert all(torch.equal(whole[key], plain[key]) for key in plain) == bool(averages)


NEUTRAL = {
    "dropout": {"rate": 0.0},
    "ema_nesterov": {"strength": 0.0, "decay": 0.99, "start": 0.0, "end": 1.0},
    "initial_scales": {"taper": 0.0, "spread": 0.0},
    "momentum_cooldown": {"share": 0.5, "end": 0.95},
    "power_cooldown": {"power": 1.0, "start_matrices": 0.0, "start_others": 0.0, "floor": 0.1},
    "stochastic_depth": {"rate": 0.0},
}


def test_neutral_options_change_no_bit():
    momentum = {"muon__momentum": 0.95, "muon__momentum_start": 0.95}
    plain = trained(*started(chosen(**momentum)), chosen(**momentum), STEPS)
    for name, options in NEUTRAL.items():
        own = chosen(techniques={name: options}, **momentum, **SCHEDULES.get(name, {}))
        found = trained(*started(own), own, STEPS)
        assert all(torch.equal(found[key], weight) for key, weight in plain.items()), name


def gradient(weight, step):
    return torch.randn(weight.shape, generator=torch.Generator().manual_seed(1000 * step + weight.numel()), dtype=torch.float64)


def updated(name, options, steps=4, **changes):
    """Weights before and after some steps with given gradients, in float64: those of the code and those of the formulas below."""
    own = chosen(techniques={name: options}, gradient_clip=0.0, muon__row_normalize=False, muon__momentum_start=0.95, **changes)
    run, _ = started(own)
    run.model.double()
    both = run.optimizers = optimizers.Optimizers(run.model, own, ALONE)
    before = {key: weight.clone() for key, weight in run.weights().items()}
    for step in range(steps):
        for weight in run.model.parameters():
            weight.grad = gradient(weight, step)
        moment = techniques.Moment(step, step / steps, 0.5, 0.5, 0.9, 1.0)
        both.each("plan", moment)
        both.step(scale=0.5, momentum=0.9, taper=1.0)
    return before, run.weights()


def soap(momentum, state, g, sides, step):
    """Section 6.1 of the notes for one matrix: the momentum in the eigenbasis, and the basis of the next step."""
    rows, columns = g.shape
    left, right = sides == "both" or rows <= columns, sides == "both" or columns < rows
    shaped = momentum
    if state:
        turned = state["l"].T @ momentum @ state["r"]
        state["v"] = 0.9 * state["v"] + 0.1 * turned**2
        shaped = state["l"] @ (turned / state["v"].clamp(min=1e-16).sqrt()) @ state["r"].T
        shaped = shaped * momentum.norm() / shaped.norm()
    state.setdefault("v", torch.zeros_like(g))
    for side, on, product, axis in (("l", left, g @ g.T, 0), ("r", right, g.T @ g, 1)):
        if not on:
            state[side] = torch.eye(len(product), dtype=g.dtype)
        elif "m" + side not in state:
            state["m" + side] = 0.1 * product
            state[side] = torch.linalg.eigh(state["m" + side]).eigenvectors.flip(-1)
        else:
            moments = state["m" + side] = 0.9 * state["m" + side] + 0.1 * product
            order = torch.diagonal(state[side].T @ moments @ state[side]).argsort(descending=True)
            state["v"] = state["v"].index_select(axis, order)
            state[side] = torch.linalg.qr(moments @ state[side][:, order]).Q
    return shaped


def matrix_step(name, options, w, u, rate, decay):
    """The new weight of one matrix from its update u."""
    if name == "cautious_decay":
        return w - rate * u - rate * decay * w * (u * w >= 0)
    if name == "row_floor":
        for i in range(len(u)):
            u[i] *= max(1.0, options["floor"] * w[i].norm() / u[i].norm())
        radius, stepped = w.norm() - rate * (u * w).sum() / w.norm(), w - rate * u
        return stepped * radius / stepped.norm() * (1 - rate * options["decay"] * (u * w > 0))
    return w * (1 - rate * decay) - rate * u


@pytest.mark.parametrize(
    "name, options",
    [
        ("cautious_decay", {"others": False}),
        ("cautious_decay", {"others": True}),
        ("row_floor", ON["row_floor"]),
        ("row_floor", {"floor": 9.0, "decay": 0.5}),
        ("second_beta", ON["second_beta"]),
        ("soap_muon", ON["soap_muon"]),
        ("soap_muon", ON["soap_muon"] | {"sides": "both"}),
        ("soap_muon", ON["soap_muon"] | {"matrices": "mlp"}),
    ],
)
def test_optimizer_is_the_formula(name, options):
    before, found = updated(name, options)
    groups = optimizers.members(started(chosen())[0].model, ())
    for key, w in before.items():
        group = next(group for group, members in groups.items() if key in members)
        if options.get("sides") == "both" and w.ndim == 2 and w.size(0) != w.size(1):
            continue  # a gradient of rank 8 leaves half of a basis of 16 to rounding
        w, m, v, state = w.clone(), torch.zeros_like(w), torch.zeros_like(w), {}
        beta1, beta2, epsilon, corrected = 0.9, 0.95, 1e-8, True
        if name == "second_beta" and group == "scalars":
            beta1, beta2, epsilon, corrected = 0.8, 0.99, 1e-10, False
        for step in range(4):
            g = gradient(w, step)
            if group == "matrices":
                m = 0.9 * m + g
                shaped = g + 0.9 * m
                if name == "soap_muon" and (options["matrices"] == "all" or ".mlp." in key):
                    shaped = soap(shaped, state, g, options["sides"], step)
                u = orthogonalise(shaped[None], iterations=3, bound="schatten8")[0] * max(1.0, w.size(0) / w.size(1)) ** 0.5
                w = matrix_step(name, options, w, u, 0.04 * 0.5, 0.1)
                continue
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            powers = (1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)) if corrected else (1.0, 1.0)
            u, decay = m / powers[0] / ((v / powers[1]).sqrt() + epsilon), 0.3 if group == "tables" else 0.0
            cautious = name == "cautious_decay" and options["others"]
            w = w - (0.008 if group == "head" else 0.02) * 0.5 * (u + decay * w * ((u * w > 0) if cautious else 1.0))
        assert torch.allclose(found[key], w, atol=1e-4 if name == "soap_muon" else 1e-6), key  # its bases are float32


def test_schedules_are_the_formulas():
    model = SimpleNamespace(named_parameters=lambda: ())

    def plan(name, fraction, **options):
        own = chosen(name)
        moment = techniques.Moment(0, fraction, 1.0, 1.0, 0.95, 1.0)
        module = plugin.load_from(techniques.__name__, name)
        module.Technique(module.Options(**(ON[name] | options)), model, own, ALONE).plan(moment)
        return moment

    # c (T - s)^1.2 of the published constants meets the first rate at 513.6 of 2,900 steps for matrices and at 1,487.0 for all others
    for start, at, constant, first in ((513.6, 2000, 3.317e-6, 0.0375), (1487.0, 2500, 4.977e-5, 0.3)):
        found = plan("power_cooldown", at / 2900, start_matrices=start / 2900, start_others=start / 2900)
        assert found.matrices == pytest.approx(constant * (2900 - at) ** 1.2 / first, rel=2e-3) and found.others == found.matrices
        assert plan("power_cooldown", start / 2900 - 1e-3, start_matrices=start / 2900).matrices == 1.0
    assert [plan("momentum_cooldown", f).momentum for f in (0.4, 0.5, 0.75)] == pytest.approx([0.95, 0.95, 0.725])
    cycles = {f: plan("epoch_cycles", f, epochs=10, last=3) for f in (0.4, 0.55, 0.75, 0.85, 0.9)}
    root = math.sqrt(0.75)
    assert [moment.matrices for moment in cycles.values()] == pytest.approx([1, 1, 0.525, 0.05 + (root - 0.05) / 2, math.sqrt(0.5)])
    assert [moment.decay for moment in cycles.values()] == pytest.approx([1, 0.825, 1.075, 1.075, 0.65])


def test_ema_nesterov_is_the_formula_and_starts_anew_with_the_recurrence():
    own = chosen("ema_nesterov")
    run, _ = started(own)
    technique, weight = run.optimizers.techniques["ema_nesterov"], next(run.model.parameters())
    w = before = weight.detach().clone()
    m = torch.zeros_like(w)
    for step in range(6):
        moment = techniques.Moment(step, step / 6, 0.5, 0.5, 0.9, 1.0, looping=step >= 4)
        technique.look_ahead(moment)
        m = torch.zeros_like(m) if step == 4 else m
        w = w + (0.6 * 0.5 * m if 0.1 <= step / 6 < 0.9 else 0.0)
        assert torch.allclose(weight, w, atol=1e-6)
        with torch.no_grad():
            weight.add_(gradient(weight, step).float(), alpha=0.1)
        w = w + 0.1 * gradient(w, step).float()
        technique.stepped(moment)
        m, before = 0.9 * m + 0.1 * (w - before), w


def test_averages_are_the_formulas():
    own = chosen(techniques={name: ON[name] for name in ("epoch_average", "tail_blend")})
    run, batches = started(own)
    path = [trained(run, batches, own, step)["blocks.0.mlp.up.weight"] for step in range(1, STEPS + 1)]
    found = run.optimizers.averages()
    ends = (path[3] + 2 * path[5] + 3 * path[7]) / 6  # 4 epochs of 2 steps, the last 3 of them
    assert torch.allclose(found["epoch_average"]["blocks.0.mlp.up.weight"], ends, atol=1e-6)
    average = path[3]  # a step begins at 0.3 of the budget or later for the first time with three of eight behind it
    for weights in path[4:]:
        average = average + (weights - average) / 3
    assert torch.allclose(found["tail_blend"]["blocks.0.mlp.up.weight"], 0.4 * path[-1] + 0.6 * average, atol=1e-5)
    assert torch.equal(found["tail_blend"]["embedding.weight"], run.weights()["embedding.weight"])


def test_dropout_and_stochastic_depth_are_off_outside_of_a_step_and_skip_what_they_say():
    own = chosen(techniques={"dropout": {"rate": 0.25}, "stochastic_depth": {"rate": 0.999}})
    run, batches = started(own)
    tokens, plain = batches.parts(0)[0].inputs, started(chosen())[0].model
    assert torch.equal(run.model(tokens), plain(tokens))
    drop, depth = (run.optimizers.techniques[name] for name in ("dropout", "stochastic_depth"))
    outputs = {}
    for layer, block in enumerate(run.model.blocks):
        block.mlp.register_forward_hook(lambda module, inputs, output, layer=layer: outputs.__setitem__(layer, output.detach()))
    drop.begin_part(techniques.Moment(3, 0.0, 1.0, 1.0, 0.9, 1.0), 0, len(tokens))
    run.model(tokens)
    shares = [(output == 0).float().mean().item() for output in outputs.values()]
    assert all(0.2 < share < 0.3 for share in shares)
    drop.end_parts()
    depth.begin_part(techniques.Moment(3, 0.0, 1.0, 1.0, 0.9, 1.0), 0, len(tokens))
    run.model(tokens)
    assert outputs[0].any() and not outputs[2].any()  # probabilities 0 and 0.999
    depth.end_parts()
    assert torch.equal(run.model(tokens), plain(tokens))


def test_initial_scales_are_the_formula():
    own = chosen("initial_scales")
    run, plain = started(own)[0], started(chosen())[0]
    for layer, (ours, theirs) in enumerate(zip(run.model.blocks, plain.model.blocks, strict=True)):
        ratios = (ours.mlp.up.weight / theirs.mlp.up.weight / (1 - 0.3 * layer / 2)).detach()
        signs = ((ratios - 1) / 0.125).round()
        assert torch.allclose(ratios, 1 + 0.125 * signs.sign(), atol=1e-5)
        query = (ours.attention.query.weight / theirs.attention.query.weight).detach()
        assert torch.allclose(query, 1 - 0.125 * signs.sign()[: len(query)], atol=1e-5)
        if layer == 1:
            assert (signs[0].reshape(2, 8).sum(dim=1) == 0).all()
            lower = signs[0]
        if layer == 2:
            assert torch.equal(signs[0], -lower)


def test_the_first_logits_are_those_of_the_bigrams():
    """Also of what was counted: with as many channels as tokens but one, the logits differ from log p by a constant for each row."""
    generator = np.random.default_rng(1)
    tokens = np.minimum(generator.geometric(0.2, 6000), 15).astype(np.uint16)
    log_p, share = bigram_start.bigrams(tokens, 16, 2.0)
    counts = np.zeros((16, 16))
    for a, b in itertools.pairwise(tokens.tolist()):
        counts[a, b] += 1
    mixed = 2.0 * (1 + (counts > 0).sum(axis=1, keepdims=True))
    following = (counts.sum(axis=0) + 0.5) / (counts.sum() + 8)
    expected = (counts + mixed * following) / (counts.sum(axis=1, keepdims=True) + mixed)
    assert np.allclose(log_p.exp(), expected, rtol=1e-4) and np.allclose(log_p.exp().sum(dim=1), 1.0, rtol=1e-4)
    assert np.allclose(share, (counts.sum(axis=1) + 1) / (counts.sum() + 16))
    left, right = bigram_start.factors(log_p, share, 16, torch.Generator().manual_seed(0))
    assert torch.allclose(left.norm(dim=1), torch.tensor(4.0), rtol=1e-4)
    error = left @ right.T - (log_p - log_p.mean(dim=1, keepdim=True))
    frequent = share > 0.01  # the longest row was cut, and that of a token which hardly occurs weighs nothing
    assert (error[frequent].abs().max(dim=1).values < 1e-2).sum() >= frequent.sum() - 1
    own = chosen("bigram_start")
    run, batches = started(own)
    ids = torch.arange(32)[:, None]
    text = batches.loader.stream
    log_p, _ = bigram_start.bigrams(text[:4000], 32, 1.0)
    with torch.no_grad():
        for name, weight in run.model.named_parameters():
            if name.endswith(("output.weight", "down.weight")):
                weight.zero_()
        logits = run.model(ids)[:, 0]
    before, after = (torch.from_numpy(text[first : first + 3999].astype(np.int64)) for first in (0, 1))
    nats = [torch.nn.functional.cross_entropy(table[before], after).item() for table in (logits, log_p)]
    assert nats[1] <= nats[0] < nats[1] + 0.15 < math.log(32)
    assert torch.equal(run.averages.tensors["ema_0.95"]["embedding.weight"], run.weights()["embedding.weight"])


def test_documents_are_shuffled_in_each_epoch_and_every_row_comes_once():
    lengths, rows, T = [7, 30, 12, 5, 46], 11, 8
    ends = np.cumsum(lengths)
    tokens = np.arange(2, 2 + sum(lengths)).astype(np.uint16)
    tokens[[0, *ends[:-1]]] = 1
    of = {}
    for number, end in enumerate(ends):
        of |= dict.fromkeys(tokens[end - lengths[number] + 1 : end].tolist(), number)
    loader = documents.Loader(
        Stream([tokens[:60], tokens[60:]], name="", vocabulary_size=200), sequence_length=T, batch_tokens=T, seed=3, section="train"
    )
    orders = []
    for epoch in range(3):
        batches = [loader.batch(epoch * rows + row) for row in range(rows)]
        spans = [[*batch.inputs[0].tolist(), int(batch.targets[0, -1])] for batch in batches]
        assert all(batch.targets[0, :-1].tolist() == batch.inputs[0, 1:].tolist() for batch in batches)
        together = sorted(token for span in spans for token in span if token > 1)
        assert len(set(together)) == len(together) and len(together) >= rows * (T + 1) - len(lengths)
        loader._go_to_epoch(epoch)
        orders.append(loader.order.tolist())
        follows = {(a, b) for span in spans for a, b in itertools.pairwise(span) if a > 1 and b > 1}
        assert all(b == a + 1 and of[a] == of[b] for a, b in follows)
    assert orders[0] == list(range(5)) and len({tuple(order) for order in orders}) == 3
    assert torch.equal(loader.batch(5).inputs, loader.batch(5).inputs)  # whatever was read in between


def test_what_cannot_go_together_is_a_sentence():
    with pytest.raises(ValueError, match="cautious_decay and row_floor, which both decide"):
        started(chosen(techniques={name: ON[name] for name in ("row_floor", "cautious_decay")}))
    with pytest.raises(ValueError, match="set it to muon"):
        started(chosen("soap_muon", optimizer="adamw"))
    with pytest.raises(ValueError, match=r"set model\.tied_head to false"):
        optimizers.Optimizers(GPT(replace(CONFIG, tied_head=True)), chosen("bigram_start"), ALONE)
    with pytest.raises(ValueError, match=r"set train\.warmdown to 0"):
        started(chosen("power_cooldown", warmdown=1.0))
    with pytest.raises(ValueError, match=r"train\.techniques\.dropout\.rat is not a known parameter"):
        started(chosen(techniques={"dropout": {"rat": 0.1}}))
