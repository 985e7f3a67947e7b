"""The scoring loop. The evaluator returns logits; the harness does the softmax and controls order, bytes and clock.

For each chunk of the evaluator's plan: `predict` gives logits for the chunk's targets, the harness normalizes them
(log p = z - logsumexp z, float64), commits each target once and in order to the ledger, and only then calls `learn`.
`predict` sees the stream up to the chunk's last target and nothing after it.
"""

# R targets of one chunk, V vocabulary

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

ROWS = 512  # rows of logits that are normalized at a time, so that their float64 copies stay in the cache


@dataclass
class Ledger:
    """The committed scores: nats[t-1] = -ln p(v[t] | ...) for targets t = 1..N, and full rows of log p where requested."""

    nats: np.ndarray
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0

    def bits_per_byte(self, num_bytes: int) -> float:
        """Σ nats / ln 2 / bytes."""
        return float(self.nats.sum()) / math.log(2) / num_bytes


def score(
    evaluator,
    tokens: np.ndarray,
    *,
    declared: int | None = None,
    documents: int | None = None,
    keep_rows=(),
    part: tuple[int, int] = (0, 1),
    tell: Callable[[int, np.ndarray], None] | None = None,
) -> Ledger:
    """Run `evaluator` over the stream `tokens` (n+1 ids, of which the first is never a target), which is in the evaluator's coding order.

    `declared`: the number of targets that the evaluator is told (n or more; None: n). The missing tokens of a last chunk are 0, and `learn`
    is not called for it. `documents`: the number of documents that it is told (None: as many as there are). `keep_rows`: targets whose
    whole distribution is kept. `part` (i, k) scores the i-th of k runs of chunks; other nats are nan. It is for evaluators that carry
    nothing from chunk to chunk, and for shares of documents (rounds.py); the parts together equal the whole, bit for bit.
    `tell` gets the first target and the nats of each chunk when they are committed.
    """
    num_targets = len(tokens) - 1
    declared = declared or num_targets
    if not 1 <= num_targets <= declared:
        raise ValueError(f"a stream needs at least 2 tokens to have a target and as many as are declared, this one has {len(tokens)}")
    stream = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(torch.get_default_device())
    ledger = Ledger(np.full(num_targets, np.nan))
    order, begin, end = getattr(evaluator, "coding_order", None), 0, num_targets
    chunks = evaluator.chunks(declared) if order is None else _rounds(order, tokens, documents, declared)
    if part != (0, 1):
        chunks, begin, end = _part(evaluator, order, list(chunks), part, num_targets=num_targets)
    wanted, started, committed = set(keep_rows), time.perf_counter(), begin
    # what the evaluator is given: a copy, so that it cannot change the scored tokens, and zeros where it may not look yet
    copied = torch.zeros(declared + 1, dtype=torch.int64, device=stream.device)
    copied[: begin + 1] = stream[: begin + 1]
    for chunk in chunks:
        first, last = chunk[0].first, min(chunk[-1].last, num_targets)
        if committed == end:
            break
        if first != committed + 1:
            raise AssertionError(f"targets out of order: {first} follows {committed}")
        targets_R = stream[first : last + 1]
        copied[first : last + 1] = targets_R
        seen = copied[: chunk[-1].last + 1]
        logits_RV = evaluator.predict(seen, chunk).detach()[: last + 1 - first]
        _commit(ledger, logits_RV, targets_R, first, wanted)
        committed = last
        if tell:
            tell(first, ledger.nats[first - 1 : last])
        if last == chunk[-1].last:
            evaluator.learn(seen, chunk)
    finite = np.isfinite(ledger.nats[begin:end]).all()
    if committed != end or not finite:
        raise AssertionError(f"{committed - begin} of {end - begin} targets were scored, all finite: {finite}")
    ledger.seconds = time.perf_counter() - started
    return ledger


def _commit(ledger: Ledger, logits_RV: torch.Tensor, targets_R: torch.Tensor, first: int, wanted: set[int]) -> None:
    """Normalize ROWS rows at a time, and store the nats of the targets first, first + 1, ... and the rows of targets in `wanted`."""
    for at in range(0, len(logits_RV), ROWS):
        part_RV = logits_RV[at : at + ROWS].double()
        total_R1 = torch.logsumexp(part_RV, dim=-1, keepdim=True)
        begin, end = first + at, first + at + len(part_RV)
        nats_R1 = total_R1 - part_RV.gather(1, targets_R[at : at + ROWS, None])
        ledger.nats[begin - 1 : end - 1] = nats_R1[:, 0].cpu().numpy()
        for target in wanted.intersection(range(begin, end)):
            ledger.rows[target] = (part_RV[target - begin] - total_R1[target - begin]).cpu().numpy()


def _rounds(order, tokens: np.ndarray, documents: int | None, declared: int):
    padded = np.zeros(declared + 1, np.int64)
    padded[: len(tokens)] = tokens
    return order.rounds(documents or len(order.starts(tokens)), declared).walk(padded)


def _part(evaluator, order, chunks: list, part: tuple[int, int], *, num_targets: int) -> tuple[list, int, int]:
    """The chunks of one part, the last target before it, and its own last target."""
    if order is not None and part[1] == order.shares:
        before = [chunk[-1].last for chunk in chunks if chunk[0].share < part[0]]
        chunks = [chunk for chunk in chunks if chunk[0].share == part[0]]
        return chunks, max(before, default=0), max((chunk[-1].last for chunk in chunks), default=max(before, default=0))
    if getattr(evaluator, "carries", True):
        raise ValueError("this evaluator carries what it learns from chunk to chunk, so it cannot run in parts; run it on one process")
    low, high = (len(chunks) * i // part[1] for i in (part[0], part[0] + 1))
    begin = chunks[low][0].first - 1 if low < len(chunks) else num_targets
    return chunks[low:high], begin, min(chunks[high - 1][-1].last, num_targets) if high > low else begin
