"""How many steps a run has, and how many of them before its recurrence starts: what the clock of `train` says, without training.

The same arithmetic as the training's own clock, which is another stage's; a test compares the two.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """`plain` steps, then `looped` ones with the recurrence on (0 without a recurrence)."""

    plain: int
    looped: int

    @property
    def total(self) -> int:
        return self.plain + self.looped


def steps(train: dict, features: dict) -> Steps | None:
    """The steps of a run with these sections; None where the budget is real seconds, which no one knows before."""
    if train["seconds"] is not None and not train["clock"]:
        return None
    budget = train["steps"] if train["seconds"] is None else train["seconds"] - train["reserve_seconds"]

    def spent(step: int) -> float:
        return step if train["seconds"] is None else _seconds(step, train["clock"])

    total = _first(lambda step: spent(step) >= budget, train["steps"])
    recurrence = features.get("depth_recurrence")
    if recurrence is None:
        return Steps(total, 0)
    start = _first(lambda step: step >= recurrence["start_step"] and spent(step) / budget >= recurrence["start_fraction"], total)
    return Steps(start, total - start)


def _seconds(step: int, knots: list) -> float:
    """What a virtual clock gives to `step` steps: linear between its knots, and on as between the last two."""
    pairs = list(itertools.pairwise([(0.0, 0.0), *knots]))
    (step0, seconds0), (step1, seconds1) = next((pair for pair in pairs if step <= pair[1][0]), pairs[-1])
    return seconds0 + (seconds1 - seconds0) * (step - step0) / (step1 - step0)


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The smallest of 0 .. most for which `holds`, which holds for all after it; `most` if there is none before."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
