"""The token-only tilt: a token that followed the same `order` - 1 tokens before becomes more likely, if hardly anything else followed them.

    hint of a target:  the most frequent token after its context so far, if it came `confidence` of the times or more
    z_hint <- z_hint + boost,   that is,   p'(a) = p(a) e^(boost [a = hint]) / (1 + p(hint) (e^boost - 1))

Targets are counted one by one, each after its own hint was looked up. Contexts are compared by a key: the exclusive or over j of token_j
times MULTIPLIERS[j], j counted from the oldest, which different contexts may share. Source: parameter-golf #1514, #2130, #2135 (order 16,
confidence 0.8, boost 2.625). There the hints of the whole text are made first, and then the documents are scored in another order.
"""

# N targets, J tokens of a context

import numpy as np

MULTIPLIERS = np.array(
    [36313, 27191, 51647, 81929, 131071, 196613, 262147, 393241, 524309, 655373, 786433, 917521, 1048583, 1179653, 1310729], np.int64
)


def keys(text: np.ndarray, length: int) -> list[int]:
    """The keys of the contexts of `length` tokens before text[length], text[length + 1], ...; int64."""
    size = len(text) - length
    contexts_JN = np.ndarray((length, size), np.int64, np.ascontiguousarray(text), strides=(8, 8))
    return np.bitwise_xor.reduce(contexts_JN * MULTIPLIERS[:length, None], axis=0).tolist()


class Hints:
    """`counts`: what followed each key, a token that came once, or counts by token. With a confidence above 0.5 a hint is the only most
    frequent token, so there is no rule for ties."""

    def __init__(self, confidence: float):
        self.confidence, self.counts = confidence, {}

    def look_up(self, keys_N: list[int], targets_N: list[int]) -> tuple[list[tuple[int, int]], dict[int, int | dict[int, int]]]:
        """(row, hint) of each target that has one, as if each target was counted before the next was looked up, and the counts that change.
        Nothing is changed."""
        found, changed = list(map(self.counts.get, keys_N)), dict(zip(keys_N, targets_N, strict=True))
        met: set[int] = set()
        again = {key for key in keys_N if key in met or met.add(key)} if len(changed) < len(keys_N) else met
        hints, later = [], {}
        for row in [row for row, before in enumerate(found) if before is not None or keys_N[row] in again]:
            key, target = keys_N[row], targets_N[row]
            before = later.get(key, found[row])
            if before is None:
                later[key] = target
                continue
            counts = dict(before) if isinstance(before, dict) else {before: 1}
            hint = max(counts, key=counts.get)
            if counts[hint] >= self.confidence * sum(counts.values()):
                hints.append((row, hint))
            counts[target] = counts.get(target, 0) + 1
            later[key] = counts
        changed.update(later)
        return hints, changed
