"""What is measured, one file for each part, in the order of LIMITS. A part is a module with `measure(context)`, which notes rows."""

from typing import NamedTuple


class Seconds(NamedTuple):
    """A part is stopped after `limit`; of eight minutes, `promised` are left to it by the parts before it."""

    limit: float
    promised: float


PARTS = {
    "tests": Seconds(60, 20),
    "equality": Seconds(40, 15),
    "precision": Seconds(60, 20),
    "compiling": Seconds(110, 50),
    "nccl": Seconds(20, 10),
    "resume": Seconds(60, 25),
    "speed": Seconds(200, 110),
    "quantizing": Seconds(40, 20),
    "sliding": Seconds(30, 15),
    "adapting": Seconds(40, 20),
    "pipeline": Seconds(3600, 140),
}
MINUTES = 8.0  # of the whole


def seconds_of(name: str, asked: list[str], *, left: float, minutes: float) -> float:
    """What the part may take of the seconds that are left: its limit, but not what is promised to the asked parts behind it. Promises
    shrink with fewer than eight minutes, and limits grow with more."""
    order, share = list(PARTS), minutes / MINUTES
    promised = sum(PARTS[other].promised for other in asked if order.index(other) > order.index(name))
    return min(PARTS[name].limit * max(1.0, share), left - promised * min(1.0, share))
