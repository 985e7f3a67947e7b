"""What a part gets: the device, the time that it has, the text, and a place for the rows that it measures."""

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stages.lib.node import files


@dataclass
class Context:
    """`path` is the file of the rows, `ends` the end of the part's time by time.monotonic(). The current folder is the part's own.

    On cpu everything has small sizes: that form shows that the code runs, and no figure of it says anything about a GPU.
    """

    path: Path
    device: str  # cuda | cpu
    ends: float
    data: Path | None = None
    rows: list[dict] = field(default_factory=list)

    @property
    def is_small(self) -> bool:
        return self.device == "cpu"

    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def note(self, what: str, value: float | str | None, unit: str = "", *, goal: str = "", holds: bool | None = None) -> None:
        """Add a row and write all rows, so that they survive the part. `holds` says whether the goal is reached; None: there is none."""
        self.rows.append({"what": what, "value": value, "unit": unit, "goal": goal, "holds": holds})
        self.write()

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """An error inside the block becomes a row, its traceback goes to the log, and the part goes on with the next thing."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.note(what, "".join(traceback.format_exception_only(error)).strip().splitlines()[-1][:300], holds=False)

    def write(self) -> None:
        files.write_json(self.path, {"rows": self.rows})
