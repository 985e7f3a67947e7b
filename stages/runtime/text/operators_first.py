"""Operators first: in a CaseOps text, the operator of a word stands before the blank in front of the word, and not behind it.

    of▁TITLE the  ->  of TITLE ▁the

So a capitalised word behind a blank takes two tokens, as with fused markers, and shares "▁the" with the word in small letters. The inverse
is exact: CaseOps puts a letter behind every operator, so one that has a blank behind it was moved.

Nobody has published this form.
"""

import re

from .caseops import CAPNEXT, ESC, TITLE

BEHIND = re.compile(f" ([{TITLE}-{CAPNEXT}])")
BEFORE = re.compile(f"{ESC}.|([{TITLE}-{CAPNEXT}]) ", re.DOTALL)  # what follows an ESC is a character of the text


def encode(text: str) -> str:
    """A CaseOps text with its operators moved; of the same length."""
    return BEHIND.sub(r"\1 ", text)


def decode(text: str) -> str:
    """The CaseOps text, from what `encode` wrote."""
    return BEFORE.sub(lambda found: " " + found[1] if found[1] else found[0], text)
