"""The artifact replayed token by token over the real stream: it is told a token only after its distribution for it has been received.

    positions: the first `coded` targets, and `sampled` others drawn from all of val (an evaluator that carries what it learns from
    chunk to chunk has to walk there, and then only as far as `walk`)
    nats[t] = -ln p_t(v[t])    to be compared with the ledger of the score:  excess[t] = nats[t] - ledger[t]
    bits    the first targets, arithmetically coded with the rows that were received; `decode` has them while the others are replayed

The stream runs in a process that has never met the tokens it has not been told, so what it says is causal whatever is in its code;
a score that rests on more shows as an excess. A replay whose excess cannot pass any more ends early.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.referee import artifact
from stages.runtime.text import arithmetic

PER_TOKEN = 0.005  # nats: batch and stream differ by rounding, and by what a fit makes of rounding
MEAN = 2e-4  # the same of the mean over all positions
ENOUGH = 48  # so many positions off by more than PER_TOKEN end a replay


@dataclass(frozen=True)
class Replay:
    """What a replay found, by position in order. `coded` tokens are in `code`; `finished`: nothing ended it early."""

    positions: np.ndarray
    nats: np.ndarray
    expected: np.ndarray
    code: bytes
    coded: int
    uncodable: str  # why a row could not be coded with; empty if all could
    finished: bool
    sums: np.ndarray  # |1 - Σ p| of each row
    is_complete: bool  # every row finite, with an entry for each token of the vocabulary
    events: list[tuple[str, int, int]]  # ("dist", t, t) and ("push", first, last), as they happened
    reach: int  # the positions come from the first so many targets
    refused: tuple[str, ...]
    decoded: np.ndarray | str | None  # what `decode` made of the code; None: it is no code that a decoder could read

    @property
    def excess(self) -> np.ndarray:
        """Nats by which the replay needs more than the score says."""
        return self.nats - self.expected

    @property
    def off(self) -> np.ndarray:
        """At which of the positions the replay and the score say different things."""
        return ~(np.abs(self.excess) <= PER_TOKEN)


def run(
    submission: Path,
    *,
    evaluator: str,
    options: dict,
    tokens: np.ndarray,
    ledger: np.ndarray,
    vocabulary: int,
    sampled: int,
    coded: int,
    walk: int | None,
    generator: np.random.Generator,
    decode: Callable[[bytes, int], np.ndarray | str],
) -> Replay:
    """Replay `coded` first targets and `sampled` others. `decode` takes the code of the first and their number, if all of them could be
    coded with the lengths that the score says."""
    num_targets = len(tokens) - 1
    coded = min(coded, num_targets)
    encoder, uncodable, at, wrong, is_complete = arithmetic.Encoder(), "", 1, 0, True
    nats, sums, events, code, decoding = [], [], [], None, None
    with (
        ThreadPoolExecutor(1) as pool,
        artifact.Stream(submission, evaluator=evaluator, options=options, num_targets=num_targets, first=int(tokens[0])) as stream,
    ):
        reach = min(num_targets, walk) if stream.carries and walk else num_targets
        others = generator.choice(reach - coded, min(sampled, reach - coded), replace=False) + coded + 1 if reach > coded else []
        positions = np.array([*range(1, coded + 1), *np.sort(others)], np.int64)
        for position in positions.tolist():
            if position > at:
                stream.push(tokens[at:position])
                events.append(("push", at, position - 1))
                at = position
            row = stream.dist()
            events.append(("dist", position, position))
            target = int(tokens[position])
            is_complete &= row.shape == (vocabulary,) and bool(np.isfinite(row).all())
            nats.append(-float(row[target]))
            sums.append(abs(float(np.exp(row).sum()) - 1.0))
            if position <= coded and not uncodable:
                try:
                    encoder.put(target, arithmetic.frequencies(row))
                except ValueError as error:
                    uncodable = f"at target {position}: {error}"
            wrong += not abs(nats[-1] - ledger[position - 1]) <= PER_TOKEN
            if position == coded:
                code = encoder.finish()
                decoding = None if uncodable or wrong else pool.submit(decode, code, coded)
            if wrong >= ENOUGH:
                break
    done = len(nats)
    return Replay(
        positions[:done],
        np.array(nats),
        np.asarray(ledger)[positions[:done] - 1],
        encoder.finish() if code is None else code,
        min(done, coded),
        uncodable,
        done == len(positions),
        np.array(sums),
        is_complete,
        events,
        reach,
        stream.refused,
        decoding and decoding.result(),
    )
