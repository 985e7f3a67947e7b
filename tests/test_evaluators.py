"""Windows, harness and evaluators: each target scored once, from the right context, and honest where it claims to be."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stages.runtime import harness, plugin, windows
from tests.test_model import model

OPTIONS = {"sliding": {}, "slot": {"learning_rate": 0.05, "steps": 5}, "causal_slot": {"learning_rate": 0.05, "steps": 8}}
GEOMETRY = {"window": 24, "stride": 8, "batch": 4}


def stream(length=150, seed=4):
    return np.random.default_rng(seed).integers(1, 50, length)


def run(name, tokens, **more):
    evaluator = plugin.load("evaluators", name).Evaluator(model(trained=True), **GEOMETRY, **OPTIONS[name])
    return harness.score(evaluator, tokens, **more)


def test_every_evaluator_of_the_folder_is_tested_here():
    assert set(OPTIONS) == set(plugin.names("evaluators"))


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
        logits = net(torch.from_numpy(tokens[w.start: w.start + w.length])[None])[0]
        expected += F.cross_entropy(logits, torch.from_numpy(tokens[w.start + 1: w.start + w.length + 1]), reduction="none")[
            w.first - 1 - w.start:].tolist()
    assert run("sliding", tokens).nats == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize("name", [n for n in OPTIONS if "causal" in plugin.load("evaluators", n).CLAIMS])
@pytest.mark.parametrize("position", [1, 2, 24, 25, 30, 48, 49, 57, 81, 149])
def test_evaluator_that_claims_to_be_causal_ignores_the_target_and_all_after_it(name, position):
    tokens = stream()
    changed = tokens.copy()
    changed[position:] = (changed[position:] + 11) % 50
    base, other = run(name, tokens, keep_rows=[position]), run(name, changed, keep_rows=[position])
    assert np.array_equal(base.nats[: position - 1], other.nats[: position - 1])
    assert np.array_equal(base.rows[position], other.rows[position])


def test_slot_moves_scores_before_the_changed_token():
    tokens = stream()
    changed = tokens.copy()
    changed[40] = (changed[40] + 11) % 50
    assert np.count_nonzero(run("slot", tokens).nats[:39] - run("slot", changed).nats[:39]) > 20


@pytest.mark.parametrize("name", ["slot", "causal_slot"])
def test_slot_with_no_steps_is_sliding(name):
    evaluator = plugin.load("evaluators", name).Evaluator(model(trained=True), **GEOMETRY, steps=0, learning_rate=0.1)
    assert np.array_equal(harness.score(evaluator, stream()).nats, run("sliding", stream()).nats)


def test_causal_slot_of_one_window_is_the_formula():
    """The second window alone: eight AdamW steps on the mean loss of its context, written out."""
    tokens, net = stream(33), model(trained=True)
    hidden = net.hidden(torch.from_numpy(tokens[8:32])[None])[0].detach()
    context, delta = 16, torch.zeros(32, requires_grad=True)
    first, second = torch.zeros(32), torch.zeros(32)
    for step in range(1, 9):
        loss = F.cross_entropy(net.head(hidden[:context] + delta), torch.from_numpy(tokens[9: 9 + context]))
        (gradient,) = torch.autograd.grad(loss, [delta])
        first, second = 0.3 * first + 0.7 * gradient, 0.9 * second + 0.1 * gradient**2
        with torch.no_grad():
            delta *= 1 - 0.05 * 1e-8
            delta -= 0.05 * (first / (1 - 0.3**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-5)
    expected = F.cross_entropy(net.head(hidden[context:] + delta), torch.from_numpy(tokens[25:33]), reduction="none")
    assert run("causal_slot", tokens).nats[24:] == pytest.approx(expected.detach().numpy(), abs=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_are_distributions_and_the_score_is_their_entry(name):
    tokens = stream()
    ledger = run(name, tokens, keep_rows=range(1, 150))
    for target, row in ledger.rows.items():
        assert math.isclose(np.exp(row).sum(), 1.0, abs_tol=1e-12) and row[tokens[target]] == -ledger.nats[target - 1]


@pytest.mark.parametrize("name", OPTIONS)
def test_scoring_twice_is_bit_equal(name):
    assert np.array_equal(run(name, stream()).nats, run(name, stream()).nats)


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


@pytest.mark.parametrize("plans", [
    [[windows.Window(0, 4, 1, 4)], [windows.Window(4, 4, 4, 8)]],  # target 4 twice
    [[windows.Window(0, 4, 1, 4)], [windows.Window(4, 4, 6, 8)]],  # target 5 never
    [[windows.Window(4, 4, 5, 8)], [windows.Window(0, 4, 1, 4)]],  # backwards
    [[windows.Window(0, 4, 1, 4)]],                                # the rest never
], ids=["twice", "gap", "backwards", "short"])
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
