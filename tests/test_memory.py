"""The memory: its table, its chain by hand and against a plain second version, rows that sum to 1, and a bound that both sides keep."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.memory import __main__ as node
from stages.runtime.scoring import chain, counting, counts, harness, mixing, priming
from stages.runtime.scoring.evaluators import memory
from stages.runtime.scoring.streaming import Stream
from stages.runtime.text import memory as shipped
from stages.runtime.tokens import windows

V = 12
OPTIONS = {"order": 3, "document": 2, "reset_at": 1, "discount": 0.8, "strength": -0.5, "rate": 0.1, "every": 4}


class Rows:
    """In place of the network: any row of logits that follows from the last two tokens, `block` targets at a time."""

    def __init__(self, block, seed=2):
        self.block, self.table = block, torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (V, V, V)))

    def chunks(self, num_targets):
        for first in range(1, num_targets + 1, self.block):
            last = min(first + self.block - 1, num_targets)
            yield [windows.Window(first - 1, last + 1 - first, first, last)]

    def predict(self, seen, chunk):
        before = torch.arange(chunk[0].first, chunk[-1].last + 1) - 1
        return self.table[seen[before], seen[(before - 1).clamp(min=0)]]

    def learn(self, seen, chunk):
        pass


def evaluator(block=7, **changes):
    made = memory.Evaluator(None, network="streaming", window=24, block=1, **(OPTIONS | changes))
    made.network = Rows(block)
    made.state = replace(made.state, weights=mixing.Weights.equal(made.state.weights.vectors[0].shape[1], 144, 2 * V))
    return made


def text(length=140, seed=3):
    """Phrases that come again, in documents that begin with 1."""
    generator = np.random.default_rng(seed)
    phrases = [generator.integers(2, V, generator.integers(2, 9)) for _ in range(9)]
    tokens = [1]
    while len(tokens) < length:
        tokens += [1] if generator.random() < 0.1 else [*phrases[generator.integers(9)]]
    return np.array(tokens[:length])


class Plainly:
    """The formulas of memory.py, chain.py and mixing.py a second time, token by token, with dictionaries."""

    def __init__(self, order, document, reset_at, discount, strength, rate, every):
        self.order, self.document, self.reset_at, self.d, self.s, self.rate, self.every = (
            order,
            document,
            reset_at,
            discount,
            strength,
            rate,
            every,
        )
        self.followers = defaultdict(lambda: defaultdict(int))
        self.weights = defaultdict(lambda: np.full(1 + order + document, 1 / (1 + order + document)))
        self.late, self.begun = [], 0

    def estimate(self, context, lower):
        if context not in self.followers:
            return lower
        after = self.followers[context]
        total = sum(after.values()) + self.s
        return np.array([max(after.get(a, 0) - self.d, 0) + (self.s + self.d * len(after)) * lower[a] for a in range(V)]) / total

    def row(self, tokens, network):
        t = len(tokens)
        if tokens[-1] == self.reset_at:
            self.begun = t
        last = {n: tuple(tokens[t - n :]) for n in range(max(self.order, self.document - 1) + 1) if n <= t}
        self.chain = [("chain", last[n]) for n in range(1, self.order + 1) if n in last]
        self.own = [(self.begun, last[n]) for n in range(self.document) if n in last]
        rows = [network]
        for n in range(self.order):
            rows.append(self.estimate(self.chain[n], rows[-1]) if n < len(self.chain) else rows[-1])
        rows += [self.estimate(self.own[n], network) if n < len(self.own) else network for n in range(self.document)]
        known = [len(context[1]) for context in self.chain if context in self.followers]
        longest = max(known, default=0)
        after = self.followers[self.chain[longest - 1]] if longest else {}
        size = min(int(math.log2(sum(after.values()))), 8) if after else 0
        self.classes = ("shape", longest, size, len(after) == 1), ("token", tokens[-1], longest > 3)
        self.rows, weights = np.array(rows), sum(self.weights[kind] for kind in self.classes) / 2
        return weights @ self.rows

    def learn(self, t, token):
        self.late.append((self.classes, self.rows[:, token]))
        if t % self.every == 0:
            before = {kind: weights.copy() for kind, weights in self.weights.items()}
            for classes, p in self.late:
                for kind in classes:
                    self.weights[kind] = self.weights[kind] * (1 - self.rate + self.rate * p / (before[kind] @ p))
            for kind in {kind for classes, _ in self.late for kind in classes}:
                self.weights[kind] /= self.weights[kind].sum()
            self.late = []
        for contexts in (self.chain, self.own):
            for context in reversed(contexts):
                had = token in self.followers.get(context, {})
                self.followers[context][token] += 1
                if had:
                    break


@pytest.mark.parametrize(
    "changes",
    [{}, {"order": 5, "document": 0, "reset_at": None, "every": 1}, {"order": 1, "document": 3, "discount": 0.5, "strength": 1.0}],
)
def test_memory_is_the_formulas_written_plainly(changes):
    tokens, network, other = text(), Rows(1), Plainly(**(OPTIONS | changes))
    ledger = harness.score(evaluator(block=33, **changes), tokens, keep_rows=range(1, len(tokens)))
    for t in range(1, len(tokens)):
        row = torch.softmax(network.predict(torch.from_numpy(tokens), [windows.Window(t - 1, 1, t, t)])[0], -1).numpy()
        assert np.exp(ledger.rows[t]) == pytest.approx(other.row(tokens[:t].tolist(), row), abs=1e-12), t
        other.learn(t, int(tokens[t]))


def test_chain_of_one_context_by_hand():
    """After 5 7 5 7 5 the context 5 had 7 once: the second 7 was counted after it as well, because no longer context had it."""
    tokens, uniform = np.array([5, 7, 5, 7, 5, 2]), 1 / V
    made = evaluator(block=1, order=1, document=0, discount=0.5, strength=0.0, rate=0.0, every=1)
    made.network.table.zero_()
    rows = np.exp(np.stack(list(harness.score(made, tokens, keep_rows=range(1, 6)).rows.values())))
    assert rows[0] == pytest.approx(np.full(V, uniform))
    once = np.full(V, 0.5 * uniform + 0.5 * 0.5 * uniform)  # one 7 after 5: (1 - .5) / 1, and .5 of the network's row; half the weight each
    once[7] += 0.5 * 0.5
    assert rows[2] == pytest.approx(once)
    twice = np.full(V, 0.5 * uniform + 0.5 * 0.25 * uniform)  # two: (2 - .5) / 2
    twice[7] += 0.5 * 0.75
    assert rows[4] == pytest.approx(twice)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, V - 1), min_size=2, max_size=60),
    st.integers(1, 60),
    st.fixed_dictionaries(
        {
            "order": st.integers(1, 5),
            "document": st.integers(0, 4),
            "discount": st.floats(0.05, 0.95),
            "strength": st.floats(-0.04, 3),
            "rate": st.floats(0, 0.5),
            "every": st.integers(1, 9),
            "reset_at": st.sampled_from([None, 1]),
        }
    ),
)
def test_rows_sum_to_one_before_the_harness_and_the_blocks_do_not_matter(tokens, block, options):
    tokens = np.array(tokens)
    made, sums = evaluator(block, **options), []
    predict = made.predict
    made.predict = lambda seen, chunk: sums.append(rows := predict(seen, chunk)) or rows
    nats = harness.score(made, tokens).nats
    assert torch.cat(sums).exp().sum(1).numpy() == pytest.approx(1, abs=1e-9)
    assert harness.score(evaluator(1, **options), tokens).nats == pytest.approx(nats, abs=1e-9)


@pytest.mark.parametrize("contexts", [None, 40])
@pytest.mark.parametrize("block", [1, 6, 50])
def test_token_by_token_is_the_same_as_in_blocks(monkeypatch, contexts, block):
    monkeypatch.setattr(counting, "PERIOD", 16)
    tokens = text(120)
    nats = harness.score(evaluator(block, contexts=contexts), tokens).nats
    stream = Stream(evaluator(5, contexts=contexts), len(tokens) - 1, int(tokens[0]))
    for t, token in enumerate(tokens[1:].tolist(), 1):
        assert -stream.dist()[token] == pytest.approx(nats[t - 1], abs=1e-9)
        stream.push([token])


def test_a_walk_with_questions_computes_every_input_once(monkeypatch):
    tokens, computed = text(120), []
    nats = harness.score(evaluator(8), tokens).nats
    made = evaluator(8)
    predict = made.network.predict
    monkeypatch.setattr(made.network, "predict", lambda seen, chunk: computed.append(chunk[0].length) or predict(seen, chunk))
    stream, known = Stream(made, len(tokens) - 1, int(tokens[0])), 1
    for target in (3, 4, 21, 22, 24, 25, 70, 119):
        stream.push(tokens[known:target].tolist())
        known = target
        assert -stream.dist()[tokens[target]] == pytest.approx(nats[target - 1], abs=1e-9)
    assert sum(computed) == 119


def test_a_question_that_is_asked_again_gets_the_same_row():
    tokens = text(60)
    once, again = (Stream(evaluator(8), len(tokens) - 1, int(tokens[0])) for _ in range(2))
    for t, token in enumerate(tokens[1:].tolist(), 1):
        row = once.dist()
        assert all(np.array_equal(again.dist(), row) for _ in range(1 + t % 3))
        once.push([token])
        again.push([token])


def test_predict_changes_nothing_that_is_remembered():
    """The token that is asked about may be any: only `learn` counts it."""
    made, tokens = evaluator(3), torch.from_numpy(text())
    for chunk in list(made.chunks(90))[:20]:
        other = tokens.clone()
        other[chunk[0].first :] = 3
        expected = made.predict(tokens[: chunk[-1].last + 1], chunk)[0].clone()
        made.predict(other[: chunk[-1].last + 1], chunk)
        assert torch.equal(made.predict(tokens[: chunk[-1].last + 1], chunk)[0], expected)
        made.predict(other[: chunk[-1].last + 1], chunk)
        made.learn(tokens[: chunk[-1].last + 1], chunk)
    one = evaluator(3)
    harness.score(one, tokens[:61].numpy())
    assert one.state.table.length == made.state.table.length and np.array_equal(one.state.table.count, made.state.table.count)


@pytest.mark.parametrize("limit", [20, 60])
def test_bounded_memory_keeps_no_more_than_half_after_each_period(monkeypatch, limit):
    monkeypatch.setattr(counting, "PERIOD", 16)
    tokens, sizes = text(401), []
    made = evaluator(16, contexts=limit)
    learn = made.learn
    made.learn = lambda *chunk: (learn(*chunk), sizes.append(made.state.table.length))
    bounded, free = harness.score(made, tokens).nats, harness.score(evaluator(16), tokens).nats
    assert max(sizes) <= limit and evaluator(16, contexts=limit).state.table.nbytes < 1e6
    assert not np.array_equal(bounded, free) and np.array_equal(bounded[:16], free[:16])


def test_memory_is_worth_most_where_text_repeats_itself():
    tokens = np.tile(text(60), 6)
    network = harness.score(Rows(16), tokens).nats
    assert harness.score(evaluator(16), tokens).nats[60:].mean() < 0.3 * network[60:].mean()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=30), max_size=8))
def test_table_counts_what_a_dictionary_counts(batches):
    table, expected = counts.Counts(), defaultdict(dict)
    for batch in batches:
        keys = counts.mixed(np.array([key for key, _ in batch], np.uint64), 5)
        tokens = np.array([token for _, token in batch], np.int64)
        which, place = table.followers(table.find(keys))
        known = np.full(len(batch), -1)
        hits = table.token[place] == tokens[which]
        known[which[hits]] = place[hits]
        table.add(keys, tokens, known)
        for key, token in batch:
            expected[key][token] = expected[key].get(token, 0) + 1
    for key, after in expected.items():
        context = table.find(counts.mixed(np.array([key], np.uint64), 5))
        total, kinds = table.sizes(context)
        places = table.followers(context)[1]
        assert (int(total[0]), int(kinds[0])) == (sum(after.values()), len(after))
        assert dict(zip(table.token[places].tolist(), table.count[places].tolist(), strict=True)) == after
        assert list(after) == table.token[places].tolist(), "in the order in which they came first"


def test_table_of_many_contexts_finds_each_and_nothing_else():
    keys = counts.mixed(np.arange(30_000, dtype=np.uint64), 1)
    table = counts.Counts()
    for part in np.array_split(np.arange(20_000), 7):
        table.add(keys[part], part % 50, np.full(len(part), -1))
    assert np.array_equal(table.find(keys[:20_000]), np.arange(20_000)) and (table.find(keys[20_000:]) == -1).all()


def test_pruned_table_keeps_what_was_met_last():
    table = counts.Counts(limit=6)
    keys = counts.mixed(np.arange(10, dtype=np.uint64), 1)
    table.add(np.repeat(keys, 3), np.tile([4, 5, 4], 10), np.full(30, -1))
    table.meet(table.find(keys), np.array([9, 1, 2, 8, 3, 3, 7, 4, 5, 6]))
    small = table.pruned()
    assert [int(number) >= 0 for number in small.find(keys)] == [i in (0, 3, 6) for i in range(10)]
    which, places = small.followers(small.find(keys[[3, 6]]))
    assert which.tolist() == [0, 0, 1, 1] and small.token[places].tolist() == [4, 5] * 2 and small.count[places].tolist() == [2, 1] * 2
    assert counts.Counts(limit=20).pruned().length == 0 and small.pruned() is small


@pytest.mark.parametrize(
    "change, words",
    [
        ({"network": "chunked"}, "network"),
        ({"order": 0}, "order"),
        ({"discount": 1.0}, "discount"),
        ({"strength": -0.9}, "strength"),
        ({"every": 0}, "every"),
        ({"contexts": 1}, "contexts"),
        ({"network": "sliding"}, "stride"),
    ],
)
def test_options_that_cannot_work_are_a_sentence(change, words):
    with pytest.raises(ValueError, match=words):
        memory.Evaluator(None, **({"network": "streaming", "window": 24, "block": 4} | OPTIONS | change))


# the text that ships


def test_counts_of_the_text_are_those_of_a_longer_chain_that_scored_it():
    """Contexts of 1 and 2 tokens, as a chain of order 3 has them when it scored the same text without contexts of documents."""
    tokens = text(400)
    primed, scored = counts.Counts(), evaluator(order=3, document=0, reset_at=None)
    priming.count(primed, tokens, 2)
    harness.score(scored, tokens)
    contexts = chain.Contexts(2, 0, None)
    keys, valid, _ = contexts.keys(tokens, 1, len(tokens) - 1, 0)
    for table in (primed, scored.state.table):
        table.numbers = table.find(keys[valid])
        assert (table.numbers >= 0).all()
    for one, other in zip(primed.numbers, scored.state.table.numbers, strict=True):
        (here, there) = ((table.total[n], _followers(table, n)) for table, n in ((primed, one), (scored.state.table, other)))
        assert here == there and here[0] == sum(here[1].values())


def _followers(table, number) -> dict[int, int]:
    _, places = table.followers(np.array([number]))
    return dict(zip(table.token[places].tolist(), table.count[places].tolist(), strict=True))


def test_primed_evaluator_needs_text_and_scores_text_like_it_better():
    """It counts before the first target, so a text that it has seen costs less, and a pack without text is refused."""
    tokens = text(300)
    content = shipped.pack(tokens)
    assert shipped.unpack(content).tolist() == tokens.tolist()
    primed, plain = evaluator(), evaluator()
    primed.state = replace(primed.state, table=priming.table(None, content, 2))
    assert harness.score(primed, tokens).nats.sum() < 0.8 * harness.score(plain, tokens).nats.sum()
    with pytest.raises(ValueError, match=r"set memory\.bytes and pack it again, or primed: 0"):
        priming.table(None, b"", 2)
    for few in range(1, 4):  # no longer contexts than there are tokens
        assert priming.table(None, shipped.pack(tokens[:few]), 3) is not None


def test_counts_that_are_handed_on_are_those_that_the_session_would_make():
    content = shipped.pack(text(300))
    arrays, made = priming.prepared(content, {"primed": 2}), priming.table(7, content, 2)
    handed = priming.table(7, content, 2, arrays)
    assert vars(handed).keys() == vars(made).keys() and all(np.array_equal(value, vars(made)[name]) for name, value in vars(handed).items())
    assert handed.token is not arrays["token"] and priming.prepared(content, {}) == priming.prepared(b"", {"primed": 2}) == {}


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-3], lambda c: c + b"x", lambda c: c[:9] + b"\xff" + c[10:], lambda c: b"x" * len(c), lambda c: c[:7]]
)
def test_damaged_text_is_one_sentence(damage):
    with pytest.raises(ValueError, match="the text for the evaluator memory is damaged"):
        shipped.unpack(damage(shipped.pack(text(200))))


def test_the_last_tokens_that_fit_ship():
    tokens = np.random.default_rng(0).integers(0, 300, 5000)
    kept, coded = node.chosen(tokens, 3000)
    assert len(coded) <= 3000 < len(shipped.pack(tokens[-len(kept) - 100 :])) and np.array_equal(kept, tokens[-len(kept) :])
    assert shipped.unpack(coded).tolist() == kept.tolist()
    assert [len(part) for part in node.chosen(tokens, 0)] == [0, 0] and len(node.chosen(tokens, 10**6)[0]) == 5000
