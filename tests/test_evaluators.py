"""Windows, harness and evaluators: each target scored once, from the right context, and honest where it claims to be."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stages.runtime.base import plugin
from stages.runtime.scoring import evaluators, harness
from stages.runtime.tokens import windows
from tests.test_model import model

GEOMETRY = {"window": 24, "stride": 8, "batch": 4}
SLOT = {"learning_rate": 0.05, "steps": 5}
LBFGS = {"iterations": 25, "history": 20, "bound": 5.0}
LORA = {
    "window": 24,
    "chunk": 8,
    "rank": 4,
    "alpha": 8.0,
    "targets": ["query", "value", "up", "head"],
    "learning_rate": 0.02,
    "beta1": 0.0,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "reset_at": 1,
    "seed": 3,
}
PHASES = {"phases": [1, 2], "phase_learning_rate": 0.05, "phase_chunk": 48, "phase_rows": 2}
MEMORY = {"order": 3, "document": 2, "reset_at": 1, "discount": 0.8, "strength": -0.5, "rate": 0.1, "every": 16}
TILT = {"order": 3, "confidence": 0.6, "boost": 1.5}
VARIANTS = {
    "sliding": GEOMETRY,
    "sliding, documents apart": GEOMETRY | {"reset_at": 1},
    "chunked": {"window": 24, "batch": 4},
    "streaming": {"window": 24, "block": 16},
    "temperature": GEOMETRY | {"temperature": 0.9},
    "slot": GEOMETRY | SLOT,
    "slot, scored positions": GEOMETRY
    | {"learning_rate": 0.05, "steps": 16, "shared": False, "objective": "scored", "bias": True, "final_rate": 0.1},
    "causal_slot": GEOMETRY | SLOT,
    "causal_slot, published": GEOMETRY | SLOT | {"form": "published"},
    "causal_slot, warm start": GEOMETRY | SLOT | {"batch": 1, "warm_start": True, "penalty": 0.01},
    "lbfgs_slot, scored": GEOMETRY | LBFGS | {"form": "scored", "focal": 16, "penalty": 0.0},
    "lbfgs_slot, shared": GEOMETRY | LBFGS | {"form": "shared", "focal": 16, "penalty": 0.0},
    "lbfgs_slot": GEOMETRY | LBFGS | {"form": "honest", "focal": 0, "penalty": 0.003},
    "etlb": GEOMETRY | {"batch": 1, "learning_rate": 0.05, "steps": 5, "bound": 3.0},
    "etlb, batched": GEOMETRY | {"learning_rate": 0.05, "steps": 5, "bound": 3.0},
    "online_bias": GEOMETRY | {"learning_rate": 0.02},
    "mixture": GEOMETRY | {"order": 3, "weight": 0.1, "share": 0.01},
    "memory": GEOMETRY | MEMORY | {"network": "sliding"},
    "memory, streaming": MEMORY | {"network": "streaming", "window": 24, "block": 16, "contexts": 200},
    "tilt": TILT | GEOMETRY | {"network": "sliding"},
    "tilt, slots": TILT | LORA | {"network": "ttt_lora", "slots": 2, "shares": 2},
    "tilt, phased": TILT | LORA | PHASES | {"network": "ttt_phased"},
    "ttt_sgd": GEOMETRY | {"chunk": 48, "epochs": 2, "learning_rate": 0.05, "momentum": 0.9, "frozen_blocks": 1, "rows": 2},
    "ttt_lora": LORA,
    "ttt_phased": LORA | PHASES,
    "ttt_phased, slots": LORA | PHASES | {"slots": 2, "shares": 2, "warm": True},
}


def kind(variant):
    return plugin.load("evaluators", variant.split(",")[0])


HONEST = [name for name, options in VARIANTS.items() if "causal" in evaluators.claims(kind(name), options)]
LEAKING = [name for name in VARIANTS if name not in HONEST]


def stream(length=150, seed=4):
    """Documents begin at 0, 60, 61 and 100 with token 1."""
    tokens = np.random.default_rng(seed).integers(2, 50, length)
    tokens[[place for place in (0, 60, 61, 100) if place < length]] = 1
    return tokens


def run(name, tokens, **more):
    return harness.score(kind(name).Evaluator(model(trained=True), **VARIANTS[name]), tokens, documents=4, **more)


@functools.cache
def scored(name):
    """The unchanged stream with every row: what most tests compare with."""
    return run(name, stream(), keep_rows=range(1, 150))


def test_every_evaluator_of_the_folder_is_tested_here():
    assert {name.split(",")[0] for name in VARIANTS} == set(plugin.names("evaluators"))


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 50))
def test_windows_partition_the_targets_and_fit_the_stream(num_targets, window, stride):
    if stride > window:
        with pytest.raises(ValueError, match="stride"):
            windows.plan(num_targets, window=window, stride=stride)
        return
    plan = windows.plan(num_targets, window=window, stride=stride)
    assert [t for w in plan for t in range(w.first, w.last + 1)] == list(range(1, num_targets + 1))
    for w in plan:
        assert w.start < w.first <= w.last == w.start + w.length <= num_targets and w.length <= window
    for w in plan[1:-1]:
        assert w.first - w.start >= window - stride + 1  # context of a later window's targets


def test_inputs_and_targets_of_windows_are_shifted_and_padded():
    plan, seen = windows.plan(5, window=4, stride=2), torch.tensor([9, 1, 2, 3, 4, 5])
    assert windows.inputs(seen, plan, 4).tolist() == [[9, 1, 2, 3], [2, 3, 4, 0]]
    assert windows.targets(seen, plan, 4).tolist() == [[1, 2, 3, 4], [3, 4, 5, 0]]


@pytest.mark.parametrize("length", [2, 3, 24, 25, 26, 33, 150])
def test_sliding_equals_one_full_forward_pass_per_target(length):
    tokens, net = stream(length), model(trained=True)
    expected = []
    for w in windows.plan(length - 1, window=24, stride=8):
        logits = net(torch.from_numpy(tokens[w.start : w.start + w.length])[None])[0]
        expected += F.cross_entropy(logits, torch.from_numpy(tokens[w.start + 1 : w.start + w.length + 1]), reduction="none")[
            w.first - 1 - w.start :
        ].tolist()
    assert run("sliding", tokens).nats == pytest.approx(np.array(expected), abs=1e-5)


# the first target, the last of the first window, the start of a document and the last target; the others are slow
QUICK = [(1, "document starts"), (24, "others"), (60, "document starts"), (149, "others")]
CHANGES = [
    pytest.param(position, to, marks=() if (position, to) in QUICK else pytest.mark.slow)
    for position in (1, 2, 24, 25, 30, 48, 49, 57, 60, 81, 149)
    for to in ("others", "document starts")
]


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("position, to", CHANGES)
def test_evaluator_that_claims_to_be_causal_ignores_the_target_and_all_after_it(name, position, to):
    base, changed = scored(name), stream()
    changed[position:] = (changed[position:] + 11) % 50 if to == "others" else 1
    other = run(name, changed, keep_rows=[position])
    assert np.array_equal(base.nats[: position - 1], other.nats[: position - 1])
    assert np.array_equal(base.rows[position], other.rows[position])


# how many of the 39 earlier scores move when token 40 changes, which lies in the middle of a batch: most where a batch shares what is
# fitted, only its own window's where each has its own
@pytest.mark.parametrize(
    "name, low, high",
    [
        ("slot", 30, 39),
        ("causal_slot, published", 24, 39),
        ("lbfgs_slot, scored", 30, 39),
        ("lbfgs_slot, shared", 24, 39),
        ("etlb, batched", 24, 39),
        ("slot, scored positions", 1, 7),
    ],
)
def test_published_variant_moves_scores_before_the_changed_token(name, low, high):
    tokens = stream()
    changed = tokens.copy()
    changed[45 if name == "slot, scored positions" else 40] = 7
    earlier = 44 if name == "slot, scored positions" else 39  # token 45 is scored by the window of the targets 41 to 48
    count = np.count_nonzero(scored(name).nats[:earlier] - run(name, changed).nats[:earlier])
    assert low <= count <= high


def test_every_variant_that_is_not_claimed_to_be_causal_is_seen_to_leak_above():
    assert len(LEAKING) == 6


@pytest.mark.parametrize("name", ["slot", "causal_slot"])
def test_slot_with_no_steps_is_sliding(name):
    evaluator = plugin.load("evaluators", name).Evaluator(model(trained=True), **GEOMETRY, steps=0, learning_rate=0.1)
    assert harness.score(evaluator, stream()).nats == pytest.approx(run("sliding", stream()).nats, abs=1e-5)


def test_causal_slot_of_one_window_is_the_formula():
    """The second window alone: five AdamW steps on the mean loss of its context, written out."""
    tokens, net = stream(33), model(trained=True)
    hidden = net.hidden(torch.from_numpy(tokens[8:32])[None])[0].detach()
    context, delta = 16, torch.zeros(32, requires_grad=True)
    first, second = torch.zeros(32), torch.zeros(32)
    for step in range(1, 6):
        loss = F.cross_entropy(net.head(hidden[:context] + delta), torch.from_numpy(tokens[9 : 9 + context]))
        (gradient,) = torch.autograd.grad(loss, [delta])
        first, second = 0.3 * first + 0.7 * gradient, 0.9 * second + 0.1 * gradient**2
        with torch.no_grad():
            delta *= 1 - 0.05 * 1e-8
            delta -= 0.05 * (first / (1 - 0.3**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-5)
    expected = F.cross_entropy(net.head(hidden[context:] + delta), torch.from_numpy(tokens[25:33]), reduction="none")
    assert run("causal_slot", tokens).nats[24:] == pytest.approx(expected.detach().numpy(), abs=1e-4)


def test_mixture_counts_again_what_it_took_back_as_if_it_had_run_again():
    one, other = (kind("mixture").Evaluator(model(trained=True), **VARIANTS["mixture"]) for _ in range(2))
    seen = torch.from_numpy(stream())
    for chunk in one.chunks(149):
        before = one.predict(seen[: chunk[-1].last + 1], chunk)
        torch.testing.assert_close(other.predict(seen[: chunk[-1].last + 1], chunk), before, atol=0, rtol=0)
        one.learn(seen[: chunk[-1].last + 1], chunk)
        other.pending = (seen[:0], [], None)
        other.learn(seen[: chunk[-1].last + 1], chunk)
    assert one.followers == other.followers and (one.counts == other.counts).all() and (one.weights == other.weights).all()


@pytest.mark.parametrize("name", ["slot", "slot, scored positions"])
def test_slot_of_a_batch_is_what_torch_makes_of_it(name):
    """Loss, AdamW and score in torch's own words: a shared delta, or one and a bias for each window."""
    tokens, net, options = stream(40), model(trained=True), VARIANTS[name]
    evaluator = kind(name).Evaluator(net, **options)
    (chunk,) = evaluator.chunks(39)
    shared, seen = options.get("shared", True), torch.from_numpy(tokens)
    with torch.no_grad():
        hidden = net.hidden(windows.inputs(seen, chunk, 24))
    targets, count = windows.targets(seen, chunk, 24), 1 if shared else len(chunk)
    delta, bias = torch.zeros(count, 1, 32, requires_grad=True), torch.zeros(count, 1, 50, requires_grad=True)
    weights = torch.zeros(len(chunk), 24)
    for row, window in zip(weights, chunk, strict=True):
        row[: window.length - 1] = 1.0
        if not shared:
            row.zero_()[window.first - 1 - window.start : window.length] = 1.0
    optimizer = torch.optim.AdamW([delta, bias] if not shared else [delta], betas=(0.9, 0.999), weight_decay=1e-8, eps=1e-5)
    cap = net.config.logit_softcap
    for rate in evaluator.rates:
        optimizer.zero_grad()
        logits = cap * torch.tanh((net.uncapped(hidden + delta) + bias) / cap)
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * weights
        (losses.sum() / weights.sum() if shared else (losses.sum(1) / weights.sum(1)).sum()).backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    expected = (cap * torch.tanh((net.uncapped(hidden + delta) + bias) / cap)).log_softmax(-1).detach()
    found = evaluator.predict(seen, chunk).log_softmax(-1)
    torch.testing.assert_close(found, windows.scored_rows(expected, chunk), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_are_distributions_and_the_score_is_their_entry(name):
    tokens, ledger = stream(), scored(name)
    for target, row in ledger.rows.items():
        assert math.isclose(np.exp(row).sum(), 1.0, abs_tol=1e-12) and row[tokens[target]] == -ledger.nats[target - 1]


@pytest.mark.parametrize("name", VARIANTS)
def test_scoring_twice_is_bit_equal(name):
    assert np.array_equal(scored(name).nats, run(name, stream()).nats)


class Cheat:
    """A plan that skips, repeats or reorders targets."""

    def __init__(self, plans):
        self.plans = plans

    def chunks(self, num_targets):
        return iter(self.plans)

    def predict(self, seen, chunk):
        return torch.zeros(chunk[-1].last - chunk[0].first + 1, 50)

    def learn(self, seen, chunk):
        pass


@pytest.mark.parametrize(
    "plans",
    [
        [[windows.Window(0, 4, 1, 4)], [windows.Window(4, 4, 4, 8)]],  # target 4 twice
        [[windows.Window(0, 4, 1, 4)], [windows.Window(4, 4, 6, 8)]],  # target 5 never
        [[windows.Window(4, 4, 5, 8)], [windows.Window(0, 4, 1, 4)]],  # backwards
        [[windows.Window(0, 4, 1, 4)]],  # the rest never
    ],
    ids=["twice", "gap", "backwards", "short"],
)
def test_harness_refuses_targets_that_are_not_scored_once_and_in_order(plans):
    with pytest.raises(AssertionError, match="targets"):
        harness.score(Cheat(plans), np.arange(9))


def test_evaluator_never_sees_past_its_chunk():
    class Spy(Cheat):
        def predict(self, seen, chunk):
            assert len(seen) == chunk[-1].last + 1
            return super().predict(seen, chunk)

    harness.score(Spy([[windows.Window(0, 4, 1, 4)], [windows.Window(4, 4, 5, 8)]]), np.arange(9))


def test_evaluator_cannot_rewrite_what_it_is_scored_on():
    class Forger(Cheat):
        def predict(self, seen, chunk):
            seen[:] = 0
            logits = super().predict(seen, chunk)
            logits[:, 0] = 50.0
            return logits

    ledger = harness.score(Forger([[windows.Window(0, 4, 1, 4)], [windows.Window(4, 4, 5, 8)]]), np.arange(9))
    assert (ledger.nats > 40).all()


@pytest.mark.parametrize("change", [{"window": "64"}, {"stride": 0}, {"stride": 25}, {"batch": 0}, {"batch": -1}, {"window": 8.5}])
def test_options_that_cannot_work_are_a_sentence(change):
    with pytest.raises(ValueError, match="an evaluator takes whole numbers"):
        plugin.load("evaluators", "sliding").Evaluator(None, **(GEOMETRY | change))


def test_ledger_converts_nats_to_bits_per_byte():
    assert harness.Ledger(np.full(10, math.log(2))).bits_per_byte(20) == pytest.approx(0.5)


def test_stream_without_a_target_is_a_sentence():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        run("sliding", np.array([1]))


@pytest.mark.parametrize("name", [name for name in VARIANTS if not kind(name).Evaluator(None, **VARIANTS[name]).carries])
@pytest.mark.parametrize("parts", [2, 3, 20])
def test_parts_together_are_the_whole(name, parts):
    whole, found = scored(name).nats, np.full(149, np.nan)
    for number in range(parts):
        nats = run(name, stream(), part=(number, parts)).nats
        assert not np.isfinite(found[np.isfinite(nats)]).any()
        found[np.isfinite(nats)] = nats[np.isfinite(nats)]
    assert np.array_equal(found, whole)


def test_evaluator_that_carries_what_it_learns_does_not_run_in_parts():
    for name in ("memory", "mixture", "ttt_sgd", "streaming", "causal_slot, warm start", "ttt_lora", "lbfgs_slot, shared"):
        with pytest.raises(ValueError, match="cannot run in parts"):
            run(name, stream(), part=(0, 2))


def test_streaming_of_any_block_is_the_same_and_of_a_long_window_one_forward_pass():
    tokens, net = stream(), model(trained=True)
    module = plugin.load("evaluators", "streaming")
    blocks = [harness.score(module.Evaluator(net, window=24, block=block), tokens).nats for block in (1, 7, 24, 64, 149)]
    for nats in blocks[1:]:
        assert nats == pytest.approx(blocks[0], abs=2e-5)
    whole = F.cross_entropy(net(torch.from_numpy(tokens[:-1])[None])[0], torch.from_numpy(tokens[1:]), reduction="none")
    assert harness.score(module.Evaluator(net, window=200, block=40), tokens).nats == pytest.approx(whole.detach().numpy(), abs=2e-5)


def test_streaming_gives_each_target_the_tokens_of_its_window_in_a_model_of_one_layer():
    """With one layer what a target sees is its window and nothing else, so it equals a plain pass over that."""
    net = model(trained=True, changes={"num_layers": 1})
    tokens = stream(60)
    nats = harness.score(plugin.load("evaluators", "streaming").Evaluator(net, window=8, block=5), tokens).nats
    for target in (1, 5, 8, 9, 30, 59):
        seen = torch.from_numpy(tokens[max(target - 8, 0) : target])[None]
        assert nats[target - 1] == pytest.approx(F.cross_entropy(net(seen)[0, -1:], torch.tensor([int(tokens[target])])).item(), abs=2e-5)


def test_documents_apart_do_not_see_each_other():
    tokens = stream()
    changed = tokens.copy()
    changed[1:60] = (changed[1:60] + 3) % 48 + 2
    base, other = (run("sliding, documents apart", t).nats for t in (tokens, changed))
    assert np.array_equal(base[61:], other[61:]) and not np.array_equal(run("sliding", tokens).nats[61:], run("sliding", changed).nats[61:])


def test_lora_starts_anew_with_each_document():
    tokens = stream()
    changed = tokens.copy()
    changed[1:60] = (changed[1:60] + 3) % 48 + 2
    assert np.array_equal(run("ttt_lora", tokens).nats[61:], run("ttt_lora", changed).nats[61:])
    assert not np.array_equal(run("ttt_lora", tokens).nats[101:], run("sliding, documents apart", tokens).nats[101:])


def test_adaptation_lowers_the_score_on_a_stream_that_repeats_itself():
    tokens = np.tile(stream(30), 6)
    plain = run("sliding", tokens).nats[90:].mean()
    for name in ("memory", "mixture", "ttt_sgd", "online_bias", "etlb"):
        assert run(name, tokens).nats[90:].mean() < plain, name


def test_mixture_is_the_formula_on_a_short_stream():
    """One window of one target at a time, order 1: counts, Witten-Bell weights and the mixing weights, written out."""
    net, tokens = model(trained=True), [1, 7, 7, 9, 7, 7]
    options = {"window": 24, "stride": 1, "batch": 1, "order": 1, "weight": 0.25, "share": 0.1}
    ledger = harness.score(plugin.load("evaluators", "mixture").Evaluator(net, **options), np.array(tokens), keep_rows=range(1, 6))
    weights, counts, followers = [0.25, 0.25], np.ones(50), {}
    logits = net(torch.tensor(tokens[:-1])[None])[0].double().softmax(-1).detach().numpy()
    for target in range(1, 6):
        before, token = tokens[target - 1], tokens[target]
        ngram, longest = counts / counts.sum(), 0
        if before in followers:
            after = np.bincount(followers[before], minlength=50)
            kinds = np.count_nonzero(after)
            ngram, longest = (after + kinds * ngram) / (after.sum() + kinds), 1
        mixed = (1 - weights[longest]) * logits[target - 1] + weights[longest] * ngram
        assert np.exp(ledger.rows[target]) == pytest.approx(mixed, abs=1e-6)
        weights[longest] = 0.9 * weights[longest] * ngram[token] / mixed[token] + 0.1 * 0.25
        counts[token] += 1
        followers.setdefault(before, []).append(token)
