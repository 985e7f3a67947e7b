"""The learning-rate scale over a run: constant, then a linear warm-down to a floor.

    f = fraction of the budget used;  scale = 1 for f < 1 - w, else max((1 - f) / w, floor)

Source: the fraction-style schedule of parameter-golf #1285 and #1855.
"""


def scale(fraction: float, *, warmdown: float, floor: float) -> float:
    """Multiplier of every learning rate, for `fraction` in 0..1 of the budget."""
    if warmdown <= 0 or fraction < 1 - warmdown:
        return 1.0
    return max((1 - min(fraction, 1.0)) / warmdown, floor)


def momentum(step: int, *, start: float, end: float, warmup_steps: int) -> float:
    """Muon's momentum: linear from `start` to `end` over the first `warmup_steps` steps."""
    return end if step >= warmup_steps else start + (end - start) * step / warmup_steps
