"""What changes during a run, as functions of the budget (learning rates, momentum, weight decay), and the clock that measures the budget.

The budget is in steps, or in seconds of training. The seconds are real, or those of a virtual clock, with which a run in seconds is the
same on any machine. With b the budget, e what is spent of it after n steps and f = e / b:

    fraction      scale = 1 for f < 1 - w, else max((1 - f) / w, floor)                          #1285, #1855
    iterations    scale = min(1, (b - e) / (K e / n)), at least floor: K average steps           naive baseline, #549
"""

import itertools
from collections.abc import Callable


def fraction_scale(fraction: float, *, warmdown: float, floor: float) -> float:
    """Multiplier of every learning rate, for `fraction` in 0..1 of the budget and a warm-down over its last `warmdown`."""
    if warmdown <= 0 or fraction < 1 - warmdown:
        return 1.0
    return max((1 - min(fraction, 1.0)) / warmdown, floor)


def iteration_scale(pace: float | None, *, spent: float, budget: float, warmdown: float, floor: float) -> float:
    """The same with a warm-down over the time of the last `warmdown` steps, at the average `pace` per step so far. The pace is None if it
    is unknown, as before the first step of a run of real seconds."""
    left, needed = max(budget - spent, 0.0), warmdown * (pace or 0.0)
    if left > needed or needed <= 0:
        return 1.0
    return max(left / needed, floor)


def momentum(step: int, *, start: float, end: float, warmup_steps: int) -> float:
    """Muon's momentum: linear from `start` to `end` over the first `warmup_steps` steps."""
    return end if step >= warmup_steps else start + (end - start) * step / warmup_steps


def decay_taper(fraction: float, *, start: float, floor: float) -> float:
    """Multiplier of Muon's weight decay: 1 until `start` of the budget, then linear to `floor` at its end (#1729)."""
    if fraction <= start:
        return 1.0
    return 1 + (floor - 1) * (min(fraction, 1.0) - start) / (1 - start)


class Clock:
    """What is spent after a number of steps, in steps or in seconds. If `knots` are given, their seconds replace the real ones.

    knots: increasing [step, seconds] pairs. Seconds are linear between them, from [0, 0] on; after the last one the last slope continues.
    """

    def __init__(self, *, steps: int, seconds: float | None, reserve_seconds: float, knots: tuple[tuple[float, ...], ...]):
        self.steps, self.in_seconds = steps, seconds is not None
        self.budget = float(steps) if seconds is None else seconds - reserve_seconds
        self.knots = [(0.0, 0.0), *knots] if knots else []

    def spent(self, step: int, real_seconds: float) -> float:
        """What is spent of the budget after `step` steps that took `real_seconds`."""
        if not self.in_seconds:
            return float(step)
        return self.virtual(step) if self.knots else real_seconds

    def virtual(self, step: int) -> float:
        """The seconds of `step` steps according to the knots."""
        for (step0, seconds0), (step1, seconds1) in itertools.pairwise(self.knots):
            if step <= step1 or step1 == self.knots[-1][0]:
                return seconds0 + (seconds1 - seconds0) * (step - step0) / (step1 - step0)
        raise AssertionError("a clock without knots")

    def pace(self, step: int, real_seconds: float) -> float | None:
        """What a step costs on average; before the first step, what that one will cost, or None if that is unknown."""
        if step:
            return self.spent(step, real_seconds) / step
        return None if self.in_seconds and not self.knots else self.spent(1, 0.0)

    def is_over(self, step: int, real_seconds: float) -> bool:
        return step >= self.steps or self.spent(step, real_seconds) >= self.budget


def total_steps(clock: Clock) -> int:
    """The number of steps of a run with a budget in steps, or with a virtual clock. ValueError for real seconds."""
    if clock.in_seconds and not clock.knots:
        raise ValueError("a budget of real seconds has no number of steps; set train.clock, or train.seconds to null")
    return first_step(lambda step: clock.is_over(step, 0.0), clock.steps)


def first_step(holds: Callable[[int], bool], most: int) -> int:
    """The smallest of 0 .. most for which `holds` is true (it must then be true for all larger ones); `most` if there is none before."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def record(times: list[tuple[int, float]], events: list[int], *, every: int = 100) -> list[list[float]]:
    """Knots that repeat a run of real seconds. `times` are (step, seconds) after each step. Kept are every `every`-th, those at `events`
    (steps at which something switched on) and the one before, and the last two, so that the same steps see the same events.
    """
    last = times[-1][0] if times else 0
    wanted = {step for event in events for step in (event - 1, event)} | {last - 1, last}
    return [[step, seconds] for step, seconds in times if step in wanted or step % every == 0]
