"""Learning rates, momentum, decay and the clock over a run."""

import pytest

from stages.lib.training import schedule


@pytest.mark.parametrize("fraction, scale", [(0.0, 1.0), (0.29, 1.0), (0.65, 0.5), (0.93, 0.1), (0.999, 0.1), (1.2, 0.1)])
def test_fraction_schedule_is_constant_then_linear_then_at_its_floor(fraction, scale):
    assert schedule.fraction_scale(fraction, warmdown=0.7, floor=0.1) == pytest.approx(scale)


@pytest.mark.parametrize(
    "step, spent, scale",
    [(0, 0.0, 1.0), (10, 20.0, 1.0), (70, 140.0, 1.0), (85, 170.0, 0.5), (98, 196.0, 0.1), (60, 180.0, 20 / 90), (100, 200.0, 0.1)],
)
def test_iteration_schedule_falls_over_the_time_of_its_last_average_steps(step, spent, scale):
    """Budget 200: at 2 per step the last 30 steps begin at 140; at 3 per step 60 steps leave 20 of the 90 that 30 steps would take."""
    pace = spent / step if step else None
    assert schedule.iteration_scale(pace, spent=spent, budget=200.0, warmdown=30, floor=0.1) == pytest.approx(scale)


def test_momentum_warms_up_linearly():
    assert [schedule.momentum(s, start=0.8, end=0.9, warmup_steps=10) for s in (0, 5, 10, 99)] == pytest.approx([0.8, 0.85, 0.9, 0.9])


def test_decay_tapers_linearly_to_its_floor():
    assert [schedule.decay_taper(f, start=0.7, floor=0.5) for f in (0.0, 0.7, 0.85, 1.0, 1.1)] == pytest.approx([1, 1, 0.75, 0.5, 0.5])
    assert schedule.decay_taper(0.999, start=1.0, floor=1.0) == 1.0


def clock(**changes):
    return schedule.Clock(**({"steps": 1000, "seconds": None, "reserve_seconds": 0.0, "knots": ()} | changes))


def test_a_budget_in_steps_is_spent_by_steps():
    plain = clock(steps=7)
    assert [plain.is_over(step, 1e9) for step in (6, 7)] == [False, True] and plain.spent(3, 99.0) == 3.0 and plain.budget == 7.0


def test_a_budget_in_seconds_is_spent_by_real_seconds_less_the_reserve_and_steps_are_its_ceiling():
    timed = clock(seconds=10.0, reserve_seconds=2.0)
    assert [timed.is_over(5, seconds) for seconds in (7.99, 8.0)] == [False, True] and timed.is_over(1000, 0.0)


def test_a_virtual_clock_is_linear_between_its_knots_and_goes_on_after_the_last():
    virtual = clock(seconds=100.0, knots=((10, 20.0), (20, 60.0)))
    assert [virtual.spent(step, 1e9) for step in (0, 5, 10, 15, 20, 25)] == [0.0, 10.0, 20.0, 40.0, 60.0, 80.0]
    assert schedule.total_steps(virtual) == 30
    assert schedule.total_steps(clock(seconds=100.0, knots=((10, 20.0),))) == 50 and schedule.total_steps(clock(steps=4)) == 4
    with pytest.raises(ValueError, match="no number of steps"):
        schedule.total_steps(clock(seconds=5.0))


def test_a_recorded_clock_has_the_same_steps_and_switches_at_the_same_one():
    """Steps of uneven length, slower once something is on from 0.35 of the budget."""
    times, seconds, event = [], 0.0, None
    while seconds < 50.0:
        if event is None and seconds >= 0.35 * 50:
            event = len(times)
        seconds += (0.1 if event is None else 0.15) * (1 + 0.3 * ((len(times) * 7919) % 13 - 6) / 6)
        times.append((len(times) + 1, seconds))
    replay = clock(seconds=50.0, knots=tuple(schedule.record(times, [event])))
    assert schedule.total_steps(replay) == len(times)
    assert next(step for step in range(1000) if replay.spent(step, 0.0) >= 0.35 * 50) == event
    assert max(abs(replay.spent(step, 0.0) - seconds) for step, seconds in times) < 0.5
    assert len(replay.knots) < len(times) / 20
