"""Fused markers: a blank and the CaseOps operator behind it are one token, so a capitalised word behind a blank takes one token less.

    ▁ TITLE -> <0x00>        ▁ ALLCAPS -> <0x01>        ▁ CAPNEXT -> <0x02>        a byte 0, 1 or 2 of the text itself -> ESC and its piece

The vocabulary stays as it is: text has no use for the pieces of these three bytes, which are control characters. Where a text does contain
one, the operator ESC stands in front of it, so every text comes back. Two pieces of 1 and 0 bytes become one of 1 byte, so sums of bytes
stay as they are.

Source: parameter-golf #2109, which has neither an inverse nor the ESC; on texts without these bytes the ids are the published ones.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FusedMarkers:
    """The ids in one vocabulary: the blank, the four CaseOps operators with ESC last, and the pieces of the bytes 0, 1 and 2."""

    blank: int
    operators: tuple[int, int, int, int]
    markers: tuple[int, int, int]

    def fuse(self, ids: np.ndarray, *counts: np.ndarray) -> tuple[np.ndarray, ...]:
        """The ids (N,) of a CaseOps text with fused markers, and what `counts` (N,) are then. `separate` is the inverse."""
        at = np.flatnonzero(np.isin(ids, self.markers))
        ids, *counts = np.insert(ids, at, self.operators[-1]), *(np.insert(values, at, 0) for values in counts)
        second = 1 + np.flatnonzero((ids[:-1] == self.blank) & np.isin(ids[1:], self.operators[:3]))
        for operator, marker in zip(self.operators, self.markers, strict=False):
            ids[second[ids[second] == operator]] = marker
        for values in counts:
            values[second] += values[second - 1]
        return tuple(np.delete(values, second - 1) for values in (ids, *counts))

    def separate(self, ids: np.ndarray) -> np.ndarray:
        """The ids of the CaseOps text, from those of `fuse`."""
        places, escapes = np.arange(len(ids)), ids == self.operators[-1]
        others = np.maximum.accumulate(np.where(escapes, -1, places))  # the last place up to here that is no ESC
        is_escaped = np.append(False, (places - others)[:-1] % 2 == 1)[: len(ids)]  # behind an odd number of ESC: the last one applies
        marked = np.isin(ids, self.markers)
        dropped, fused = np.flatnonzero(marked & is_escaped) - 1, marked & ~is_escaped
        found = np.repeat(ids, 1 + fused)
        second = (places + np.cumsum(fused))[fused]
        found[second - 1] = self.blank
        for operator, marker in zip(self.operators, self.markers, strict=False):
            found[second[ids[fused] == marker]] = operator
        return np.delete(found, dropped + np.cumsum(fused)[dropped] if len(dropped) else dropped)
