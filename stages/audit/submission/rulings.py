"""What the organizers of the contest decided, by pull request: rulings.csv beside this file, each row with its date and its source.

    accepted      merged as a record or as a notable row, and not taken back
    excluded      ruled out by an organizer, or taken back
    withdrawn     taken back by its author
    never merged  no decision of an organizer is known; C1 to C4 (Issue #1017) say what its reason is

A folder is the pull request that the reader names (`--pr`), that its submission.json names, or that its own name is known for.
"""

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("rulings.csv")
OWN_NAME = re.compile(r"^(?:pr|pull|gh)[-_ #]?(\d{1,5})(?!\d)", re.IGNORECASE)
NAMED = ("pr", "pr_number", "pull_request", "pull_request_number", "pr_url", "github_pr")


@dataclass(frozen=True)
class Ruling:
    """One row. `reason` is a kind of docs/reading-submissions.md, or empty; `folder` is the beginning of a published folder's name,
    `score` the accepted bits per byte."""

    pull_request: int
    date: str
    state: str
    reason: str
    text: str
    source: str
    folder: str = ""
    score: str = ""


@functools.lru_cache(maxsize=1)
def table() -> dict[int, Ruling]:
    with open(TABLE, encoding="utf-8", newline="") as handle:
        rows = [Ruling(**(row | {"pull_request": int(row["pull_request"])})) for row in csv.DictReader(handle)]
    return {row.pull_request: row for row in rows}


def pull_request(folder: Path, claims: dict, given: int | None) -> int | None:
    """The number of the folder's pull request, if it is known."""
    if given is not None:
        return given
    for name in NAMED:
        value = claims.get(name)
        if (
            isinstance(value, int | str)
            and not isinstance(value, bool)
            and (found := re.search(r"(?:^|#|/|pr ?)(\d{1,5})$", str(value)[:200], re.IGNORECASE))
        ):
            return int(found[1])
    name = Path(folder).resolve().name
    if found := OWN_NAME.match(name):
        return int(found[1])
    return next((row.pull_request for row in table().values() if row.folder and name.startswith(row.folder)), None)


def of(folder: Path, claims: dict, given: int | None) -> tuple[int | None, Ruling | None]:
    number = pull_request(folder, claims, given)
    return number, table().get(number) if number is not None else None
