"""Parse the comment header of a recipe, which says what was published, what was run, and what the replica does differently.

    # Field: text
    #   more of the same text

It has every field of FIELDS once, in that order. `Parameters`, `Steps` and `Script`
(counted bytes of the published script) are whole numbers; `Published` has one entry per seed,

    seed 42: 1.05989 bits per byte, 15,897,259 bytes, 599.5 s of training, 455 s of evaluation; seed 0: ...

in which the seconds may be left out if no log has them. For a stack that nobody has published, `Script` and `Published` are `none`.
"""

import re
from dataclasses import dataclass

FIELDS = ("Stack", "Source", "Parameters", "Steps", "Script", "Published", "As run", "As written", "Deviations", "Needs", "Ruling")
NONE = "none"
SEED = re.compile(
    r"seed (?P<seed>\d+): (?P<bits_per_byte>\d\.\d+) bits per byte, (?P<artifact_bytes>[\d,]+) bytes"
    r"(?:, (?P<train_seconds>[\d.]+) s of training)?(?:, (?P<evaluate_seconds>[\d.]+) s of evaluation)?"
)


@dataclass(frozen=True)
class Seed:
    """One published run. Seconds are None if no log has them."""

    seed: int
    bits_per_byte: float
    artifact_bytes: int
    train_seconds: float | None
    evaluate_seconds: float | None


@dataclass(frozen=True)
class Header:
    """The fields of one recipe. `parameters` and `steps` are the published numbers; --check and the tests compare the replica with them."""

    stack: str
    source: str
    parameters: int
    steps: int
    script_bytes: int
    published: tuple[Seed, ...]
    as_run: str
    as_written: str
    deviations: str
    needs: str
    ruling: str


def parse(text: str, name: str) -> Header:
    """The header of the recipe file `text`. ValueError names the field that is missing, unknown, repeated or unreadable."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#   ") and found:
            found[next(reversed(found))] += " " + line[4:].strip()
            continue
        field, colon, rest = line.removeprefix("# ").partition(":")
        if not colon or field not in FIELDS:
            raise ValueError(
                f"recipe {name}: the header line {line!r} is neither a field ({', '.join(FIELDS)}) nor indented by three "
                "blanks as the rest of one; correct it"
            )
        if field in found:
            raise ValueError(f"recipe {name}: the header has {field!r} twice; leave one of them")
        found[field] = rest.strip()
    for field in FIELDS:
        if not found.get(field):
            raise ValueError(f"recipe {name}: the header has no {field!r}; add a line '# {field}: ...'")
    if tuple(found) != FIELDS:
        raise ValueError(f"recipe {name}: the header's fields stand in another order than {', '.join(FIELDS)}; put them in that order")
    return Header(
        found["Stack"],
        found["Source"],
        _number(found["Parameters"], "Parameters", name),
        _number(found["Steps"], "Steps", name),
        0 if found["Script"] == NONE else _number(found["Script"], "Script", name),
        () if found["Published"] == NONE else tuple(_seed(entry, name) for entry in found["Published"].split(";")),
        *(found[field] for field in FIELDS[FIELDS.index("As run") :]),
    )


def _number(text: str, field: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,3}(,\d{3})*", text):
        raise ValueError(f"recipe {name}: {field} is {text!r}; write a whole number with commas between thousands, such as 35,945,671")
    return int(text.replace(",", ""))


def _seed(entry: str, name: str) -> Seed:
    match = SEED.fullmatch(entry.strip())
    if match is None:
        raise ValueError(
            f"recipe {name}: Published has {entry.strip()!r}; write 'seed 42: 1.05989 bits per byte, 15,897,259 bytes', then "
            "', 599.5 s of training' and ', 455 s of evaluation' where they are known"
        )
    seconds = [None if match[key] is None else float(match[key]) for key in ("train_seconds", "evaluate_seconds")]
    return Seed(int(match["seed"]), float(match["bits_per_byte"]), int(match["artifact_bytes"].replace(",", "")), *seconds)
