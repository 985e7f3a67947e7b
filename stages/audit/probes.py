"""Probes, the short streams that the artifact is asked to score: what is changed in them, where, and which result belongs to which.

All are the beginning of val and are declared as long as val, so an evaluator cannot tell a probe from the real stream. If an evaluator
carries nothing from chunk to chunk, chunks from anywhere in val are requested as well, each unchanged and changed.
"""

from dataclasses import dataclass, field

import numpy as np

from stages.lib.referee.artifact import Request, Result
from stages.runtime.text.tokenizer import BOS

ROWS = 64  # rows of the unchanged probe that are kept in full
EARLY = 512  # sampled tokens are tried at a position up to this; an evaluator that learns restarts for each of them


@dataclass(frozen=True)
class Flip:
    """Token `position` gets another id, and with `whole_future` so do all later tokens of the probe. `kind` says what is there."""

    position: int
    whole_future: bool
    kind: str
    request: int
    unchanged: int = 0


@dataclass
class ProbeSet:
    """Requests for one process, and for each purpose the indices of its requests."""

    requests: list[Request] = field(default_factory=list)
    flips: list[Flip] = field(default_factory=list)
    truncated: list[tuple[int, int]] = field(default_factory=list)  # (length, request)
    tried: list[tuple[int, int, int]] = field(default_factory=list)  # (position, id, request)
    parts: list[int] = field(default_factory=list)  # the whole, then its parts
    longer: int = 0
    again: int = 0

    def add(self, request: Request) -> int:
        self.requests.append(request)
        return len(self.requests) - 1


def base(length: int, num_targets: int, rows: tuple[int, ...]) -> Request:
    """The request for the unchanged probe."""
    return Request(length, num_targets, rows=rows)


def probe_set(
    tokens: np.ndarray,
    first: Result,
    *,
    length: int,
    vocabulary: int,
    flips: int,
    truncations: int,
    sample: int,
    generator: np.random.Generator,
) -> ProbeSet:
    """The requests for an evaluator whose unchanged probe gave `first`; the commits in `first` say where windows and chunks end."""
    num_targets, made = len(tokens) - 1, ProbeSet()
    kinds = places(tokens[: length + 1], first.commits)
    chosen = choose(kinds, flips, generator)
    draw = np.sort(generator.choice(length, min(ROWS, length), replace=False) + 1)
    made.add(base(length, num_targets, rows=tuple(sorted({int(row) for row in draw} | {position for position, _ in chosen}))))
    for i, (position, kind) in enumerate(chosen):
        ids = other_ids(tokens[position : length + 1 if i % 2 else position + 1], vocabulary, generator)
        request = made.add(Request(length, num_targets, position=position, ids=ids, rows=(position,)))
        made.flips.append(Flip(position, i % 2 == 1, kind, request))
    for stop in cuts(kinds, length, truncations, generator):
        made.truncated.append((stop, made.add(Request(stop, num_targets))))
    made.longer = made.add(Request(length, 2 * num_targets))
    carries = first.line["carries"]
    position = int(generator.integers(2, min(length, EARLY) + 1))
    made.requests[0] = base(length, num_targets, rows=tuple(sorted({*made.requests[0].rows, position})))
    likely = [int(tokens[position])]
    for a in [*likely, *generator.choice(vocabulary, min(sample, vocabulary), replace=False).tolist()]:
        made.tried.append((position, a, made.add(Request(position, num_targets, position=position, ids=(a,)))))
    if not carries:
        made.parts = [made.add(Request(length, length)), *(made.add(Request(length, length, part=(i, 3))) for i in range(3))]
        for position in sorted(generator.choice(num_targets, min(flips, num_targets), replace=False).tolist()):
            position = max(2, position)
            span, stop = (position, position), num_targets
            unchanged = made.add(Request(stop, num_targets, rows=(position,), span=span))
            ids = other_ids(tokens[position : position + 1], vocabulary, generator)
            request = made.add(Request(stop, num_targets, position=position, ids=ids, rows=(position,), span=span))
            made.flips.append(Flip(position, False, "anywhere in val", request, unchanged))
    made.again = made.add(base(length, num_targets, rows=()))
    return made


def other_ids(ids: np.ndarray, vocabulary: int, generator: np.random.Generator) -> tuple[int, ...]:
    """A different random id for each of `ids`: adding 1..V-1 modulo V changes every one."""
    return tuple(int(i) for i in (np.asarray(ids, np.int64) + generator.integers(1, vocabulary, len(ids))) % vocabulary)


def places(tokens: np.ndarray, commits: np.ndarray) -> dict[str, np.ndarray]:
    """The targets of each kind of place. The edges of batches and windows come first, because leaks are most likely there."""
    firsts, lasts, chunks = commits.T
    new_chunk = np.diff(chunks, prepend=-1) != 0
    middle = (firsts + lasts) // 2
    documents = np.flatnonzero(np.asarray(tokens) == BOS)
    found = {
        "first target of a batch": firsts[new_chunk],
        "middle of a window inside a batch": middle[~new_chunk],
        "first target of a window inside a batch": firsts[~new_chunk],
        "last target of a window": lasts,
        "start of a document": documents,
        "after the start of a document": documents + 1,
        "last token of a document": documents - 1,
        "anywhere in the probe": np.arange(2, len(tokens)),
    }
    limit = len(tokens) - 1
    return {kind: targets[(targets >= 2) & (targets <= limit)] for kind, targets in found.items()}


def choose(kinds: dict[str, np.ndarray], count: int, generator: np.random.Generator) -> list[tuple[int, str]]:
    """`count` different targets, taken from each kind in turn."""
    left = {kind: generator.permutation(targets).tolist() for kind, targets in kinds.items()}
    chosen: dict[int, str] = {}
    while len(chosen) < count and any(left.values()):
        for kind, targets in left.items():
            while targets and targets[-1] in chosen:
                targets.pop()
            if targets and len(chosen) < count:
                chosen[targets.pop()] = kind
    return list(chosen.items())


def cuts(kinds: dict[str, np.ndarray], length: int, count: int, generator: np.random.Generator) -> list[int]:
    """The lengths at which streams are cut off: at an edge, one token before it, one after it, and anywhere."""
    edges = np.concatenate([kinds["first target of a batch"], kinds["last target of a window"]])
    edge = int(generator.choice(edges)) if len(edges) else length // 2
    wanted = [edge, edge - 1, edge + 1, *generator.integers(1, length + 1, count).tolist()]
    return list(dict.fromkeys(stop for stop in wanted if 1 <= stop <= length))[:count]
