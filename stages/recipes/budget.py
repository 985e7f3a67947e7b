"""How many steps a run has, and how many of them before its recurrence starts, without training: read off the training's own clock."""

from dataclasses import dataclass

from stages.lib.training import schedule


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
