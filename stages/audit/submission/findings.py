"""The data that was read from a submission folder, and the findings about it."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from stages.audit import reading
from stages.audit.submission import logs
from stages.lib.referee.significance import Significance


@dataclass(frozen=True)
class Finding:
    """One finding. `verdict`: pass | fail | doubt | unknown; `seed` is None if the finding is about the whole folder."""

    check: str
    verdict: str
    text: str
    seed: int | None = None


@dataclass
class Submission:
    """What was read from a folder, and the findings. `hints` come from the code and decide nothing."""

    folder: Path
    claims: dict
    logs: list[logs.Log]
    findings: list[Finding] = field(default_factory=list)
    hints: list[reading.Hint] = field(default_factory=list)
    significance: Significance | None = None

    @property
    def verdict(self) -> str:
        """`not legal` if a finding fails, else `not ruled`, because files alone cannot show that a score is causal."""
        return "not legal" if any(finding.verdict == "fail" for finding in self.findings) else "not ruled"

    @property
    def scores(self) -> list[float]:
        return [log.score.bits_per_byte for log in self.logs if log.score]


def number(entry: dict, *names: str) -> float | None:
    for name in names:
        value = entry.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    return None


def decimals(number: float) -> int:
    return len(repr(float(number)).partition(".")[2])
