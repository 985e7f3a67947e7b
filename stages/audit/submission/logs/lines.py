"""One line of a log: its pairs of a name and a value, its durations, and whether it is source code that the log dumps.

    line      ::= head (name [:=] value | words)*
    value     ::= number [unit] | word
    number    ::= at most 15 digits before the point and 20 after, with an exponent of at most 4, or nan, or inf
    duration  ::= number (ms | s | sec | seconds | m | min | minutes | h)

Blanks are collapsed first, so that every pattern is linear in the length of the line. Lines are cut at CHARACTERS.
"""

import collections
import re
from dataclasses import dataclass, field

CHARACTERS = 600
NUMBER = r"[-+]?(?:\d{1,15}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,4})?(?![\w.]*\d)|[-+]?(?:nan|NaN|NAN|inf|Inf)\b"
COUNT = r"\d{1,3}(?:[,_]\d{3}){1,4}(?![,\d])|\d{1,15}(?!\d)"
PAIR = re.compile(rf"([A-Za-z_][\w./+-]*)[\"']?\)? ?[:=] ?[\"']?({NUMBER}|[^\s,;\"'|]{{1,120}})")
SECONDS = {
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "seconds": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "mins": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
}
DURATION = re.compile(r"(?<![\w.])(\d{1,12}(?:,\d{3})*(?:\.\d{0,12})?) ?(ms|secs?|seconds?|s|mins?|minutes|m|h)\b(?!/)")
MILLISECONDS = re.compile(r"(\w*(?:time|elapsed)\w*_ms)\s?[:=]\s?(\d{1,12}(?:\.\d{1,12})?)")
CODE_WORDS = re.compile(
    r"^(async |def \w+\(|class \w+[(:]|import \w|from \S+ import|return\b|(elif|else|try|except|finally)\b.*:$|"
    r"(with|if|for|while) .*:$|@\w|#|assert |raise |print\()|"
    r"\b(self|os\.environ|torch|np|args|F|nn|dist|h|math)\.[A-Za-z_]+[(\[=]|\w\(f[\"']|\bf[\"']|os\.environ|\bself\.|\blambda\b"
)
ASSIGNS = re.compile(r"^\w[\w.,\[\] ]{0,80} (=|\+=|-=|\*=) ")
SEED = re.compile(r"(?:^|[\s,\[(])(?:random_|train_|global_)?seed[\"']?(?: ?[:=] ?| )(\d{1,12})\b", re.IGNORECASE)
FILE_SEED = re.compile(r"seed[-_]?(\d{1,12})|(?:^|[_-])s(\d{1,12})(?=\.|_|-|$)", re.IGNORECASE)
FORMAT = re.compile(r"\{[A-Za-z_][\w.()\[\]+*/ -]{0,80}(?:![rsa])?(?::[^{}'\" ]{0,16})?\}")  # the place of an f-string


def clean(raw: str) -> str:
    """A line without control characters, with single blanks, cut at CHARACTERS."""
    return " ".join(raw[: 4 * CHARACTERS].split())[:CHARACTERS]


def is_code(raw: str, line: str) -> bool:
    """Whether a line is source code. Numbers in code are no results, and `seed = 0` in a dump is no seed."""
    if CODE_WORDS.search(line) or (FORMAT.search(line) and not line.startswith("{")):
        return True
    return raw[:1] in (" ", "\t") and bool(ASSIGNS.match(line))


@dataclass
class Line:
    """A line with its number (from 1), its pairs with names in lower case, and its seconds."""

    number: int
    text: str
    pairs: dict[str, str] = field(default_factory=dict)

    @property
    def lower(self) -> str:
        return self.text.lower()

    def durations(self) -> list[float]:
        """All durations of the line in seconds."""
        found = [_seconds(number, unit) for number, unit in DURATION.findall(self.text)]
        return found + [float(number) / 1000 for _, number in MILLISECONDS.findall(self.text)]


def read(number: int, text: str) -> Line:
    line = Line(number, text)
    for name, value in PAIR.findall(text):
        line.pairs.setdefault(name.lower(), value)
    return line


def _seconds(number: str, unit: str) -> float:
    return float(number.replace(",", "")) * SECONDS[unit]


def whole(text: str) -> int:
    return int(text.replace(",", "").replace("_", ""))


def uncertainty(number: str) -> float:
    """Half a unit of the last digit that is printed: 1.0810 -> 0.00005, 3.4e-07 -> 5e-09."""
    mantissa, _, exponent = number.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 0.5 * 10.0 ** (min(int(exponent or 0), 300) - decimals)


def announcement(text: str) -> tuple[int, str] | None:
    """(seed, what stands before it, without digits) of a line that tells a seed."""
    found = SEED.search(text)
    if found is None or "seeds" in text.lower():
        return None
    return int(found[1]), re.sub(r"[\d\W]+", " ", text[: found.start()]).strip().lower()


def seed_of(file: str) -> int | None:
    """The seed that a file is named for."""
    found = FILE_SEED.search(file)
    return int(found[1] or found[2]) if found else None


class Telling:
    """Lines within a budget of characters: the first ones, and of the others the last ones."""

    def __init__(self, most: int):
        self.first, self.last, self.left_out, self.characters = [], collections.deque(), 0, 0
        self.room, self.kept, self.most = most // 3, 0, most - most // 3

    def add(self, number: int, raw: str) -> None:
        size = min(len(raw), CHARACTERS)
        if self.room >= size and not self.last:
            self.room -= size
            self.first.append((number, raw))
        else:
            self.last.append((number, raw))
            self.kept += size
        self.characters += size
        while self.kept > self.most:
            _, dropped = self.last.popleft()
            self.kept -= min(len(dropped), CHARACTERS)
            self.characters -= min(len(dropped), CHARACTERS)
            self.left_out += 1

    def __iter__(self):
        yield from self.first
        yield from self.last
