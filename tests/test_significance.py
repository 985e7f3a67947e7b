"""The tests over seeds give the published examples' p-values, and say nothing of one seed."""

import math

import pytest

from stages.lib.referee import significance
from stages.lib.referee.significance import one_sample, student_below, welch

NATS = 2.4359301 * math.log(2)  # nats per token for one bit per byte: sp1024 has 2.4359301 bytes per token
PR549 = [bits * NATS for bits in (1.11923, 1.12002, 1.11889)]
PR1019 = [bits * NATS for bits in (1.11508, 1.11437, 1.11475)]
PR1150 = [1.88287900, 1.88264755, 1.88297553]
PR1172 = [1.86088769, 1.85761751, 1.86094674]
PR1306 = [1.83039117, 1.83076270, 1.83258919]


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize(
    "values, record, gain, alone, both",
    [(PR1150, PR549, 0.00719, 9.9e-4, 0.029), (PR1172, PR1019, 0.02236, 2.0e-3, 1.0e-3), (PR1306, PR1019, 0.0509, None, 5.6e-6)],
)
def test_published_examples_have_the_p_values_that_reviewers_recomputed(values, record, gain, alone, both):
    first, second = one_sample(values, mean(record), 0.005), welch(values, record, 0.005)
    assert first.gain == pytest.approx(gain, abs=2e-4) and second.gain == first.gain
    assert alone is None or first.p == pytest.approx(alone, rel=0.1)
    assert second.p == pytest.approx(both, rel=0.1)
    assert welch(values, record, 0).p < second.p  # no margin is easier


@pytest.mark.parametrize(
    "t, degrees, expected",
    [
        (-6.964557, 2, 0.01),
        (-3.746947, 4, 0.01),
        (-1.0, 1, 0.25),
        (0.0, 7, 0.5),
        (1.0, 1, 0.75),
        (-2.326348, 1e7, 0.01),
        (-318.308839, 1, 0.001),
    ],
)
def test_distribution_agrees_with_the_tables_and_the_closed_forms(t, degrees, expected):
    assert student_below(t, degrees) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("t", [-40.0, -3.0, -0.2, 0.7, 5.0])
def test_two_degrees_have_a_closed_form(t):
    assert student_below(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), rel=1e-9, abs=1e-12)


def test_three_seeds_need_a_gain_of_the_margin_and_four_deviations():
    scores = [1.0 - 0.001, 1.0, 1.0 + 0.001]  # s = 0.001
    assert one_sample(scores, 1.0 + 0.005 + 4.03 * 0.001, 0.005).p < 0.01 < one_sample(scores, 1.0 + 0.005 + 4.01 * 0.001, 0.005).p


def test_one_seed_says_that_nothing_can_be_said():
    for result in (one_sample([1.0], 2.0, 0.005), welch([1.0], [2.0, 2.1], 0.005), welch([1.0, 1.1], [2.0], 0.005)):
        assert result.p is None and result.t is None and "nothing can be said" in result.sentence


def test_equal_scores_leave_no_doubt_and_divide_by_nothing():
    assert one_sample([1.0, 1.0], 2.0, 0.5).p == 0.0 and one_sample([1.0, 1.0], 1.0, 0.5).p == 1.0
    assert welch([1.0, 1.0], [1.5, 1.5], 0.5).p == 0.5
    assert "not significant" in one_sample([1.0, 1.0], 1.0, 0.5).sentence


@pytest.mark.parametrize("values, record, margin", [([], 1.0, 0.0), ([math.nan], 1.0, 0.0), ([1.0], math.inf, 0.0), ([1.0], 1.0, -1.0)])
def test_what_is_no_sample_is_refused(values, record, margin):
    with pytest.raises(ValueError, match="a test"):
        one_sample(values, record, margin)


def test_margin_and_level_are_those_of_the_rules():
    assert (significance.MARGIN_NATS, significance.LEVEL) == (0.005, 0.01)


@pytest.mark.parametrize("degrees, expected", [(2, 6.964557), (4, 3.746947), (1e12, 2.326348)])
def test_quantile_is_that_of_the_tables(degrees, expected):
    assert significance.student_above(degrees, 0.01) == pytest.approx(expected, rel=1e-5)
