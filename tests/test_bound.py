"""The certified limit X: true as often as it says, as tight as its formula, and never lower for worse news."""

import math

import numpy as np
import pytest

from stages.audit import bound, replay

VOCABULARY, TARGETS, DRAWN = 512, 2000, 300
LID = bound.floor(DRAWN, VOCABULARY)


def honest_costs(generator):
    return generator.gamma(1.2, 1.6, TARGETS)


def all_a_little(costs, generator):
    return costs - 0.03 * np.minimum(costs, 1.0)


def a_few_much(costs, generator):
    return np.where(generator.random(TARGETS) < 0.015, 0.0, costs)


def one(costs, generator):
    return np.where(np.arange(TARGETS) == np.argmax(costs), 0.0, costs)


def where_it_pays_most(costs, generator):
    """The costliest hundredth is claimed to be free."""
    return np.where(costs > np.quantile(costs, 0.99), 0.0, costs)


def too_high_elsewhere(costs, generator):
    """Half of the claims are too high, so that honest differences seem to have either sign."""
    return np.maximum(np.where(generator.random(TARGETS) < 0.5, costs + 0.4, costs - 0.8), 0.0)


def many_a_bit_high_and_few_free(costs, generator):
    return np.where(generator.random(TARGETS) < 0.02, 0.0, costs + 0.05)


def noise(costs, generator):
    return np.maximum(costs + generator.normal(0, 0.3, TARGETS), 0.0)


def first_half_only(costs, generator):
    return np.where(np.arange(TARGETS) < TARGETS // 2, 0.9 * costs, costs)


def impossible_or_certain(costs, generator):
    """What was claimed to be certain is impossible: the most that one target can hide."""
    return np.where(generator.random(TARGETS) < 0.013, 0.0, costs)


LIARS = (
    all_a_little,
    a_few_much,
    one,
    where_it_pays_most,
    too_high_elsewhere,
    many_a_bit_high_and_few_free,
    noise,
    first_half_only,
    impossible_or_certain,
)


def audits(liar, count: int, seed: int) -> np.ndarray:
    """X minus the truth, in nats, of `count` audits of liars of this kind."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(count):
        costs = honest_costs(generator)
        claims = liar(costs, generator)
        if liar is impossible_or_certain:
            costs = np.where(claims == 0.0, np.inf, costs)
        under = LID.under(claims)
        drawn = bound.draw(under, LID, DRAWN, generator)
        found.append(bound.most_nats(under, LID, drawn, LID.under(costs[drawn - 1])) - LID.under(costs).sum())
    return np.array(found)


def too_many(failures: int, count: int) -> bool:
    """More than LEVEL explains: with probability below 1e-3 even for a liar who is at the limit."""
    expected = bound.LEVEL * count
    return failures > expected + 3.1 * math.sqrt(expected) + 1


@pytest.mark.parametrize("liar", LIARS)
def test_truth_is_above_the_limit_at_most_as_often_as_it_says(liar):
    assert not too_many(int((audits(liar, 60, seed=3) < 0).sum()), 60)


@pytest.mark.slow
@pytest.mark.parametrize("liar", LIARS)
def test_truth_is_above_the_limit_in_at_most_one_of_a_hundred_of_thousands_of_audits(liar):
    assert not too_many(int((audits(liar, 3000, seed=5) < 0).sum()), 3000)


@pytest.mark.parametrize("liar", (all_a_little, a_few_much, too_high_elsewhere))
def test_simulation_sees_a_limit_that_is_no_limit(monkeypatch, liar):
    """The mean of the sample, without what chance can hide, is below the truth in about half of the audits."""
    monkeypatch.setattr(bound, "mean_limit", np.mean)
    assert too_many(int((audits(liar, 60, seed=3) < 0).sum()), 60)


@pytest.mark.parametrize("count", [20, 110])
def test_liar_who_hides_all_or_nothing_is_believed_with_exactly_computed_probability(count):
    """Differences of 1 in a share f of the draws and 0 elsewhere: the chance of a limit below f is at most 1 %, and nearly reaches it."""
    limits = np.array([bound.mean_limit(np.r_[np.ones(ones), np.zeros(count - ones)]) for ones in range(count + 1)])
    assert (np.diff(limits[:-1]) > 0).all()
    ways = np.array([math.comb(count, ones) for ones in range(count + 1)], float)
    worst = 0.0
    for share in (*np.linspace(1e-3, 0.999, 500), *(limits[:-1] + 1e-9)):
        ones = np.arange(count + 1)
        chance = ways * share**ones * (1 - share) ** (count - ones)
        worst = max(worst, float(chance[limits < share].sum()))
    assert 0.6 * bound.LEVEL < worst <= bound.LEVEL


@pytest.mark.parametrize("count", [1, 7, 110, 1500])
def test_limit_of_a_sample_without_a_difference_is_the_formula(count):
    """The capital reaches 1/a at the limit, and with the stake of 1 alone the limit would be 1 - (a w)^(1/n)."""
    limit, zero = bound.mean_limit(np.zeros(count)), np.zeros(count)
    stakes = {stake: (1 - stake + stake / (1 - limit)) ** count for stake in bound.STAKES}
    assert sum(bound.STAKES[stake] * value for stake, value in stakes.items()) == pytest.approx(1 / bound.LEVEL, rel=1e-4)
    alone = 1 - (bound.LEVEL * bound.STAKES[1.0]) ** (1 / count)
    assert 0.97 * alone < limit <= alone + 1e-9 and bound._capital(zero, limit - 1e-6) < -math.log(bound.LEVEL)
    assert count < 100 or limit == pytest.approx(4.7 / count, rel=0.05)
    assert sum(bound.STAKES.values()) == pytest.approx(1.0)


def test_limit_rises_with_every_difference_and_falls_with_every_position():
    generator = np.random.default_rng(0)
    values = np.clip(generator.normal(0, 0.05, 200), -1, 1)
    before = bound.mean_limit(values)
    for place in (0, 50, 199):
        worse = values.copy()
        worse[place] += 0.2
        assert bound.mean_limit(worse) > before
    limits = [bound.mean_limit(np.zeros(count)) for count in (1, 2, 10, 100, 1000)]
    assert limits == sorted(limits, reverse=True)
    assert before > values.mean() and bound.mean_limit(np.ones(50)) == pytest.approx(1.0, abs=1e-9)
    assert bound.mean_limit(np.full(50, 5.0)) == bound.mean_limit(np.ones(50))  # more than everything is everything


def test_too_high_claims_lower_the_limit_only_by_what_was_seen():
    """Negative differences count, but a sample of them never certifies less than the claims minus all of them."""
    values = np.full(300, -0.5)
    assert -0.5 < bound.mean_limit(values) < bound.mean_limit(np.zeros(300))


@pytest.mark.parametrize("share", [0.08, 0.2, 0.5])
def test_enough_positions_leave_open_what_was_asked_for(share):
    """The floor's own cost is in it, and the numbers of positions have limits."""
    claims = honest_costs(np.random.default_rng(5))
    nats = share * float(claims.sum())
    count = bound.enough(claims, VOCABULARY, nats, most=3000)
    lid, drawn = bound.floor(count, VOCABULARY), np.ones(count, np.int64)
    left_open = bound.most_nats(lid.under(claims), lid, drawn, lid.under(claims)[drawn - 1]) - float(claims.sum())
    assert 600 <= count < 3000 and left_open <= nats and (count == 600 or left_open > 0.8 * nats)
    assert bound.enough(claims, VOCABULARY, 1e-9, most=3000) == 3000 and bound.enough(claims, VOCABULARY, math.inf, most=3000) == 600


def test_floor_is_a_mixture_with_the_uniform_distribution():
    nats = np.array([0.0, 1e-3, 2.5, 30.0, np.inf])
    expected = -np.log((1 - LID.share) * np.exp(-nats) + LID.share / VOCABULARY)
    assert LID.under(nats) == pytest.approx(expected) and LID.under(nats).max() == pytest.approx(LID.most_nats)
    assert LID.most_nats == pytest.approx(math.log(VOCABULARY / LID.share)) and (LID.under(nats) >= 0).all()
    assert LID.share == pytest.approx(math.log(100) / DRAWN) and bound.floor(1, 10).share == 0.5
    assert (np.diff(LID.under(nats)) > 0).all()


def test_positions_are_drawn_in_proportion_to_what_could_be_hidden_there():
    claims = np.array([0.0, 1.0, 5.0, LID.most_nats, 2.0])
    drawn = bound.draw(claims, LID, 40_000, np.random.default_rng(1))
    room = LID.most_nats - claims
    assert np.bincount(drawn, minlength=6)[1:] / 40_000 == pytest.approx(room / room.sum(), abs=0.01)
    assert not (drawn == 4).any() and drawn.min() == 1 and drawn.max() == 5


def found(claims, replayed, drawn, *, reach=None, finished=True):
    positions = np.unique(drawn)
    seen, targets = (replayed[positions - 1], claims[positions - 1]), np.arange(1, len(claims) + 1)
    return replay.Replay(drawn, positions, *seen, LID, reach or len(claims), False, finished, targets)


def test_replay_counts_a_position_as_often_as_it_was_drawn():
    generator = np.random.default_rng(2)
    claims = honest_costs(generator)
    truth, drawn = claims + generator.normal(0, 0.01, TARGETS), generator.integers(1, TARGETS + 1, DRAWN)
    drawn[:40] = drawn[40]
    expected = bound.most_nats(LID.under(claims), LID, drawn, LID.under(truth[drawn - 1]))
    assert found(claims, truth, drawn).most_nats(claims) == pytest.approx(expected, rel=1e-12)


def test_there_is_no_limit_where_not_everything_could_be_drawn_or_replayed():
    claims, drawn = np.ones(TARGETS), np.arange(1, 301)
    assert found(claims, claims, drawn).most_nats(claims) is not None
    assert found(claims, claims, drawn, reach=TARGETS - 1).most_nats(claims) is None
    assert found(claims, claims, drawn, finished=False).most_nats(claims) is None


def test_difference_that_is_no_number_is_off():
    claims = np.ones(TARGETS)
    for bad in (np.nan, np.inf, 1.0051, 0.9949):
        assert found(claims, np.full(TARGETS, bad), np.array([3])).off.all()
    assert not found(claims, claims + 0.0049, np.array([3])).off.any()
