"""The number of steps of a run, and how many come before its recurrence starts, from the training's own clock and without training."""

from dataclasses import dataclass

from stages.lib.training import schedule


@dataclass(frozen=True)
class Steps:
    """A run's number of `plain` steps, then of `looped` steps with the recurrence on (0 without a recurrence)."""

    plain: int
    looped: int

    @property
    def total(self) -> int:
        return self.plain + self.looped


def steps(train: dict, features: dict) -> Steps | None:
    """The steps of a run with these sections; None if the budget is in real seconds, because then the number is known only afterwards."""
    if train["seconds"] is not None and not train["clock"]:
        return None
    clock = schedule.Clock(
        steps=train["steps"], seconds=train["seconds"], reserve_seconds=train["reserve_seconds"], knots=tuple(map(tuple, train["clock"]))
    )
    total = schedule.total_steps(clock)
    recurrence = features.get("depth_recurrence")
    if recurrence is None:
        return Steps(total, 0)
    start = schedule.first_step(
        lambda step: step >= recurrence["start_step"] and clock.spent(step, 0.0) / clock.budget >= recurrence["start_fraction"], total
    )
    return Steps(start, total - start)
