"""Count the train text that ships in the artifact before the first target is scored, for the evaluator `memory`."""

import numpy as np

from ..text import memory
from . import counts


def table(limit: int | None, text: bytes | None, order: int, arrays: dict[str, np.ndarray] | None = None) -> counts.Counts:
    """A table of at most `limit` contexts, with the counts of the text in memory.bin after its contexts of 1..order tokens. `arrays` are
    those of such a table, if it was made before."""
    found = counts.Counts(limit)
    if order and arrays:
        vars(found).update({name: array.copy() if array.ndim else int(array) for name, array in arrays.items()})
    elif order:
        if not text:
            raise ValueError("the artifact has no text to count before it begins; set memory.bytes and pack it again, or primed: 0")
        count(found, memory.unpack(text), order)
    return found


def prepared(text: bytes, options: dict) -> dict[str, np.ndarray]:
    """The arrays of the table before the first target, for these options of the evaluator. No token that is scored is needed for them."""
    order = options.get("primed", 0) if text else 0
    return {name: np.asarray(value) for name, value in vars(table(None, text, order)).items() if order and value is not None}


def count(table: counts.Counts, tokens: np.ndarray, order: int) -> None:
    """Count each of `tokens` after its contexts of 1..order tokens, as a chain of a larger order does that scores one after the other.

    Such a chain counts a token in a context if the context that is longer by one has not had it before. That is update exclusion
    (chain.py) read from the other side, and all tokens can be counted at once by it.
    """
    key = counts.mixed(np.zeros(len(tokens) - 1, np.uint64), tokens[:-1])  # of the context of each of tokens[length:]
    for length in range(1, min(order, len(tokens) - 1) + 1):
        longer = counts.mixed(key[1:], tokens[: -length - 1])
        first, _ = counts.distinct(counts.mixed(longer, tokens[length + 1 :]))
        counted = np.concatenate([[0], 1 + np.sort(first)])  # the first token of all has no longer context
        table.add(key[counted], tokens[length:][counted], np.full(len(counted), -1))
        key = longer
