"""CaseOps: a lossless form of text in which operators in front of lower-case letters stand for ASCII capitals.

    The NASA iPhone  ->  T the  A nasa  i C phone            (the real text has no blanks after the operators, nor before C)

    TITLE   U+E001   the next letter is a capital: the first of its word
    ALLCAPS U+E002   the whole word is capitals; two letters at least
    CAPNEXT U+E003   the next letter is a capital, anywhere
    ESC     U+E004   the next character stands for itself, for texts that contain one of these four characters

A word is a maximal run of A-Z and a-z. No other character changes (É, ſ and the Kelvin sign have no operator), not even a lone surrogate.
The encoding contains no A-Z, so "The" and "the" share their letters in the vocabulary. `decode` accepts more than `encode`
writes, such as CAPNEXT at the start of a word; `_walk` is the definition.

Source: parameter-golf #1729, transform `lossless_caps_caseops_v1`. Speed: benchmarks/caseops.py.
"""

import functools
import re
import string

OPERATORS = TITLE, ALLCAPS, CAPNEXT, ESC = "\ue001", "\ue002", "\ue003", "\ue004"
NAMES = dict(zip(OPERATORS, ("TITLE", "ALLCAPS", "CAPNEXT", "ESC"), strict=True))

LETTERS, LOWERCASE = frozenset(string.ascii_letters), frozenset(string.ascii_lowercase)
CAPITALS = {operator + letter: letter.upper() for operator in (TITLE, CAPNEXT) for letter in string.ascii_letters}

FROM_CAPITAL = re.compile("([A-Z][A-Za-z]*+)")  # a whole word or, as in iPhone, the rest of it after its first small letters
CAPITAL = re.compile("[A-Z]")
OPERATOR = re.compile(f"[{TITLE}-{ESC}]")
# An operator with the letters it applies to, or alone if its neighbours do not show them. One character class comes first and
# the alternatives look back at it, so the search for the next operator is one table look-up per character.
UNIT = re.compile(
    f"([{TITLE}-{ESC}](?:"
    f"(?<={TITLE})(?<![A-Za-z].)[A-Za-z]"
    f"|(?<={CAPNEXT})[A-Za-z]"
    f"|(?<={ALLCAPS})(?<![A-Za-z].)[A-Za-z]++(?!{CAPNEXT}|{ESC}[A-Za-z])"  # otherwise the word continues after the operator
    f"|(?<={ESC})."
    ")?)",
    re.DOTALL,
)


def encode(text: str) -> str:
    """`text` with operators for its capitals; decode(encode(text)) == text for every str."""
    if any(operator in text for operator in OPERATORS):
        text = OPERATOR.sub(lambda operator: ESC + operator[0], text)
    parts = FROM_CAPITAL.split(text)
    parts[1::2] = [
        _continued(word) if before[-1:] in LOWERCASE else _word(word)
        for before, word in zip(parts[::2], parts[1::2], strict=False)  # there is one more gap than words
    ]
    return "".join(parts)


@functools.lru_cache(maxsize=2**15)
def _word(word: str) -> str:
    if len(word) > 1 and word.isupper():
        return ALLCAPS + word.lower()
    if word[1:].islower():
        return TITLE + word.lower()
    return TITLE + word[0].lower() + _continued(word[1:])


def _continued(letters: str) -> str:
    return CAPITAL.sub(lambda capital: CAPNEXT + capital[0].lower(), letters)


def decode(text: str) -> str:
    """The text that `text` encodes. ValueError naming the operator and its position if one cannot apply."""
    return _decode(text, is_strict=True)


def decode_leniently(text: str) -> str:
    """Like `decode`, but an operator that cannot apply is dropped: normalization after `encode` may have composed its letter
    with an accent into a character outside A-Z. The result equals that of `decode` for every text that `decode` accepts."""
    return _decode(text, is_strict=False)


def _decode(text: str, *, is_strict: bool) -> str:
    parts = UNIT.split(text)
    if not NAMES.keys().isdisjoint(parts[1::2]):  # a single operator, which `encode` never writes
        return _walk(text, is_strict=is_strict)
    parts[1::2] = [CAPITALS.get(unit) or (unit[1:] if unit[0] == ESC else unit[1:].upper()) for unit in parts[1::2]]
    return "".join(parts)


def _walk(text: str, *, is_strict: bool) -> str:
    """Decode character by character: for texts that UNIT cannot match, with state over an escaped character or between operators."""
    written: list[str] = []
    waiting: dict[str, int] = {}  # operator -> its position, until it is applied
    in_word = in_allcaps = False

    def give_up(operator: str, position: int, problem: str) -> None:
        if is_strict:
            raise ValueError(
                f"this is not a CaseOps text: the {NAMES[operator]} at character {position} {problem}; "
                "encode the original again, or use decode_leniently for a text that was changed since"
            )

    for position, char in enumerate(text):
        if ESC in waiting:
            del waiting[ESC]
            written.append(char)
            in_word = char in LETTERS
            in_allcaps &= in_word
        elif char == ESC:
            waiting[ESC] = position
        elif char in NAMES:
            if in_word and char != CAPNEXT:
                give_up(char, position, "stands inside a word")
            elif CAPNEXT in waiting or (waiting and char != CAPNEXT):
                give_up(char, position, f"follows a {NAMES[next(iter(waiting))]} that still waits for its letter")
            else:
                waiting[char] = position
        elif char in LETTERS:
            is_capital = in_allcaps or CAPNEXT in waiting
            waiting.pop(CAPNEXT, None)
            if not in_word:
                in_allcaps = ALLCAPS in waiting
                is_capital |= bool(waiting)
                waiting.clear()
                in_word = True
            written.append(char.upper() if is_capital else char)
        else:
            for operator, start in waiting.items():
                give_up(operator, start, f"has no letter before {char!r} at character {position}")
            waiting.clear()
            written.append(char)
            in_word = in_allcaps = False
    for operator, start in waiting.items():
        give_up(operator, start, "has nothing to apply to before the text ends")
    return "".join(written)


def byte_counts(surfaces: list[str]) -> list[int]:
    """The number of UTF-8 bytes of the original text for each of `surfaces`, the consecutive parts of a transformed text.

    Operators count 0. An escaped character counts its own bytes, also if its ESC ended an earlier surface. The sum is
    len(original.encode()), and a lone surrogate raises UnicodeEncodeError (a ValueError) as there.
    """
    counts = [len(s) if s.isascii() else 0 if s in NAMES else len(OPERATOR.sub("", s).encode()) for s in surfaces]
    is_escaped = False
    for i in range(len(surfaces)) if ESC in "".join(surfaces) else ():
        if is_escaped or ESC in surfaces[i]:
            counts[i] = 0
            for char in surfaces[i]:
                if is_escaped or char not in NAMES:
                    counts[i] += len(char.encode())
                is_escaped = char == ESC and not is_escaped
    return counts
