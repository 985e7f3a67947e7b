"""Read what submission.json states: a field under its usual spellings, numbers and sizes in the forms that people write.

    name      ::= VAL_BPB | valBPB | val-bpb, all the same as val_bpb; at the top, or in one object such as `metrics`
    number    ::= 1.081 | "1.0810 ± 0.0002" | "~1.081" | " +.9" | [1.081] | {"mean": 1.081}
    size      ::= number | "17.5 MB" | "16.2 MiB" | "15,990,000 bytes" | {"max": number}

A comma parts thousands; "0,9" is no number, because nobody knows which of its two meanings is meant.
"""

import json
import math
import re
from dataclasses import dataclass, replace

NUMBER = re.compile(r"\s*[~≈]?\s*([-+]?)\s*([1-9]\d{0,2}(?:,\d{3}){1,4}|\d{1,15}(?:\.\d{0,17})?|\.\d{1,17})(e[-+]?\d{1,3})?(?!\d|[.,]\d)")
UNIT = re.compile(r"\s*(k|M|G)?(i)?B(?:ytes?)?\b|\s*(kilo|mega|giga)?bytes?\b", re.IGNORECASE)
LIMIT = re.compile(r"limit|cap|budget|allow|margin|headroom|left|remain", re.IGNORECASE)
UNITS = {"k": 1, "m": 2, "g": 3}
WITHIN = ("metrics", "final_metrics", "results", "result", "scores", "summary", "final")  # objects that may hold a folder's own figures
MIDDLES = ("mean", "average", "avg", "value")
LARGEST = 1e15
MEGABYTES = 1_000.0  # a size below it that has no unit is taken for one in MB


def field(entry: dict, name: str) -> tuple[str, object]:
    """(the name as it is written there, its value), or ("", None); an entry that is null is none."""
    if entry.get(name) is not None:
        return name, entry[name]
    plain = _plain(name)
    return next(((key, value) for key, value in list(entry.items())[:1_000] if value is not None and _plain(key) == plain), ("", None))


def fields(claims: dict, *names: str) -> list[tuple[str, object]]:
    """Those of the fields that a folder states, at the top or else in one of the objects that hold its figures."""
    found = [pair for name in names if (pair := field(claims, name))[0]]
    for place in WITHIN:
        where, inner = field(claims, place)
        if isinstance(inner, dict):
            found += [(f"{where}.{key}", value) for name in names for key, value in [field(inner, name)] if key]
    return found


def _plain(name: object) -> str:
    return str(name)[:60].lower().replace("_", "").replace("-", "").replace(" ", "")


def number(entry: dict, *names: str) -> float | None:
    """The first of the fields that can be read as a number."""
    return next((value for _, raw in fields(entry, *names) if (value := read(raw)) is not None), None)


def read(raw: object) -> float | None:
    """A number, a text that begins with one, or the one number or the mean that an object holds."""
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    elif isinstance(raw, dict):
        raw = next((value for name in MIDDLES for value in [field(raw, name)[1]] if value is not None), None)
    if isinstance(raw, str) and (found := NUMBER.match(raw[:60])):
        raw = float(found[1] + found[2].replace(",", "") + (found[3] or ""))
    believed = isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw) and abs(raw) < LARGEST
    return raw if believed else None


def decimals(number: float) -> int:
    """Decimals that a number is written with; 3.5e-07 has eight."""
    mantissa, _, exponent = repr(float(number)).partition("e")
    digits = len(mantissa.partition(".")[2])
    return max(0, (0 if mantissa.endswith(".0") else digits) - int(exponent or 0))


def shown(value: object) -> str:
    """A value as JSON writes it, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = str(type(value).__name__)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Size:
    """A stated number of bytes. `slack` is half of the last digit of a size in larger units; `guess` says what it is taken for."""

    name: str
    bytes: float
    slack: float = 0.0
    guess: str = ""


def size(name: str, raw: object) -> Size | None:
    """The bytes that a field states; of an object or a list, the largest of its sizes."""
    if isinstance(raw, dict):
        return _of_object(name, raw)
    if isinstance(raw, list):
        found = [one for value in raw[:100] if not isinstance(value, dict | list) and (one := size(name, value))]
        return max(found, key=lambda one: one.bytes, default=None)
    value = read(raw)
    if value is None:
        return None
    unit = UNIT.match(raw[NUMBER.match(raw[:60]).end() :][:20]) if isinstance(raw, str) else None
    guess = ""
    if unit:
        power = UNITS.get((unit[1] or unit[3] or " ")[0].lower(), 0)
        factor = (1024.0 if unit[2] else 1000.0) ** power
    elif 1 <= value < MEGABYTES:  # no artifact has so few bytes
        plain = _plain(name)
        factor, guess = 1024.0**2 if plain.endswith("mib") else 1e6, "" if plain.endswith(("mb", "mib")) else "if it is in MB"
    else:
        return Size(name, value)
    slack = 0.5 * 10.0 ** -decimals(value) * factor if factor > 1 else 0.0
    return Size(name, value * factor, slack, guess)


def _of_object(name: str, raw: dict) -> Size | None:
    """The size of an object: the one that is called the largest, or the largest of those of seeds, or, as a guess, of all but limits."""
    found = {
        str(key): one
        for key, value in list(raw.items())[:100]
        if not isinstance(value, dict | list) and not LIMIT.search(str(key)[:60]) and (one := size(f"{name}.{key}", value))
    }
    called = next((found[key] for key in found if _plain(key) in ("max", "maximum", "largest", "worst")), None)
    largest = called or max(found.values(), key=lambda one: one.bytes, default=None)
    if largest is None or called or len(found) == 1 or all(re.fullmatch(r"(seed|s)?\d{1,12}", _plain(key)) for key in found):
        return largest
    return replace(largest, guess=largest.guess or "the largest of several")
