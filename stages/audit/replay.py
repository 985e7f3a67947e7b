"""Replay the real stream token by token: the artifact gets a token only after it has given its distribution for that token.

    positions: the first `coded` targets, and `sampled` others drawn from all of val (an evaluator that carries what it learns from
    chunk to chunk must score everything before a position, so they are drawn from the first `walk` targets only)
    nats[t] = -ln p_t(v[t])    to be compared with the ledger of the score:  excess[t] = nats[t] - ledger[t]
    bits    the first targets, arithmetically coded with the received rows; `decode` works on them while the other targets are replayed

The stream runs in a process that has no access to tokens that it was not yet told, so its distributions are causal, whatever its code does.
If the ledger used later tokens, the replay shows an excess. A replay ends early once its excess is too large to pass.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.referee import artifact
from stages.runtime.text import arithmetic

PER_TOKEN = 0.005  # nats: batch and stream differ by rounding, which a fit can enlarge
MEAN = 2e-4  # nats: the same for the mean over all positions
ENOUGH = 48  # this many positions that differ by more than PER_TOKEN end a replay


@dataclass(frozen=True)
class Replay:
    """The result of a replay; arrays are in the order of the positions. `code` holds `coded` tokens; `finished`: it did not end early."""

    positions: np.ndarray
    nats: np.ndarray
    expected: np.ndarray
    code: bytes
    coded: int
    uncodable: str  # why a row could not be used for coding; empty if all could
    finished: bool
    sums: np.ndarray  # |1 - Σ p| of each row
    is_complete: bool  # every row finite, with an entry for each token of the vocabulary
    events: list[tuple[str, int, int]]  # ("dist", t, t) and ("push", first, last), as they happened
    reach: int  # the positions are drawn from this many first targets
    refused: tuple[str, ...]
    decoded: np.ndarray | str | None  # the result of `decode`; None: it was not called, see `run`

    @property
    def excess(self) -> np.ndarray:
        """Nats that the replay needs beyond what the ledger states, by position."""
        return self.nats - self.expected

    @property
    def off(self) -> np.ndarray:
        """Whether the replay and the ledger differ by more than PER_TOKEN, by position."""
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
    """Replay the first `coded` targets and `sampled` others. `decode(code, count)` is called with the code of the first ones if all of them
    could be coded and none differed from the ledger by more than PER_TOKEN."""
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
