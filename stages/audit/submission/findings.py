"""The data that was read from a submission folder, and the findings about it."""

from dataclasses import dataclass, field
from pathlib import Path

from stages.audit.code import reading
from stages.audit.submission.logs.log import Log, Pass
from stages.audit.submission.rulings import Ruling
from stages.lib.referee.significance import Significance

CHECKS = ("size", "bytes", "claims", "score", "seeds", "training", "evaluation", "time", "lineage", "overlap", "documents", "texts", "code")
CONTRADICTS = ("lineage", "overlap", "documents")  # a doubt in these speaks of a rule


SAME = {  # reasons of rulings that logs and code call otherwise
    "pre-quantization TTT": {"trains on val"},
    "training budget": {"training"},
    "scored again": {"two passes", "trains on val"},
    "two passes": {"scored again", "impossible score", "score"},
    "adapts first": {"batch-shared"},
    "byte mixture": {"target in gate"},
    "train/val overlap": {"overlap"},
    "bytes": {"piece table"},
}


@dataclass(frozen=True)
class Finding:
    """One finding. `verdict`: pass | fail | doubt | unknown. A fail is proved by arithmetic on what the folder states. `seed` is None if
    the finding is about the whole folder; `file` and `lines` say where it was read; `kind` is a word for tables where a rule has a name."""

    check: str
    verdict: str
    text: str
    seed: int | None = None
    file: str = ""
    lines: tuple[int, ...] = ()
    kind: str = ""


@dataclass
class Run:
    """One training run: its logs, the pass whose score is claimed (or else the last), and the log that has it."""

    seed: int | None
    logs: list[Log]
    claimed: float | None = None
    score: Pass | None = None
    log: Log | None = None
    is_claimed: bool = False
    counts: bool = True  # whether it is among the runs that the folder claims; others are context

    @property
    def name(self) -> str:
        return f"seed {self.seed}" if self.seed is not None else self.logs[0].file

    def first(self, name: str):
        """A number of the log with the score, or else of another log of this run; and that log."""
        for log in ([self.log] if self.log else []) + [log for log in reversed(self.logs) if log is not self.log]:
            if (value := getattr(log, name)) is not None:
                return value, log
        return None, None


@dataclass
class Submission:
    """What was read from a folder, and the findings. `hints` come from the code and decide nothing."""

    folder: Path
    claims: dict
    logs: list[Log]
    track: str = "record"
    runs: list[Run] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    hints: list[reading.Hint] = field(default_factory=list)
    ruling: Ruling | None = None
    pull_request: int | None = None
    significance: Significance | None = None
    read: list[str] = field(default_factory=list)  # source files that were read, by name
    skipped: dict[str, str] = field(default_factory=dict)  # files that look like logs and were not read, and why

    @property
    def proved(self) -> list[str]:
        """The checks that fail: what arithmetic on the folder's files proves."""
        return [check for check in CHECKS if any(finding.check == check and finding.verdict == "fail" for finding in self.findings)]

    @property
    def suggested(self) -> list[str]:
        """The kinds of leaks and doubts that code and logs suggest."""
        kinds = {hint.kind for hint in self.hints if hint.against}
        kinds |= {
            finding.kind or finding.check
            for finding in self.findings
            if finding.verdict == "doubt" and (finding.kind or finding.check in CONTRADICTS)
        }
        return sorted(kinds)

    @property
    def decided(self) -> str:
        """What the organizers decided: accepted | excluded | ..., or an empty string."""
        return self.ruling.state if self.ruling else ""

    @property
    def reason_found(self) -> bool | None:
        """Whether what was found here holds the reason of the ruling; None if the ruling gives none."""
        if not self.ruling or not self.ruling.reason:
            return None
        found = {*self.proved, *self.suggested}
        return bool(found & ({self.ruling.reason} | SAME.get(self.ruling.reason, set())))

    @property
    def verdict(self) -> str:
        """`not legal` only from proof. An accepted record stays accepted: where it breaks the strict rule, that is said."""
        if self.decided == "accepted":
            broken = self.proved + [kind for kind in self.suggested if kind not in self.proved]
            return f"accepted; by the strict rule: {', '.join(broken)}" if broken else "accepted"
        if self.proved:
            return "not legal"
        return self.decided or "not ruled"

    @property
    def scores(self) -> list[float]:
        return [run.score.bits_per_byte for run in self.runs if run.score and run.score.is_number]
