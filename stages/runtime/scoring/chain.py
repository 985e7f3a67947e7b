"""The statistics of a chunk of targets: for each target and each of its contexts, what was counted before that target.

Contexts of a target, K in all: its last 1..M tokens, and then its last 0..D-1 tokens together with the document that it is in. After a
target is scored, its token is counted after those of the first M contexts that are at least as long as the longest one that had this token
already (update exclusion: Cleary and Witten 1984, PPM); if none had it, after all. The same holds, separately, for the D contexts of the
document. So a context counts in how many different longer contexts a token came, as Kneser and Ney 1995 do, except for the longest.

Everything is computed for the whole chunk at once, but as if each target was counted before the next one was scored.
"""

# R targets of a chunk, K contexts, E entries, F = 1 + K parts of the mixture: network, chain, document; V vocabulary

from dataclasses import dataclass

import numpy as np

from . import counts


@dataclass(frozen=True)
class Chunk:
    """N and U (R, K) before each target; the entries of the contexts' followers: cell (E) = row K + context, token (E) and
    value (E) = counts minus discount, where one follower may have several entries; and what `count` needs to count the targets."""

    total: np.ndarray
    kinds: np.ndarray
    cell: np.ndarray
    token: np.ndarray
    value: np.ndarray
    counted: tuple[np.ndarray, np.ndarray, np.ndarray]  # keys, tokens, places in the pool
    keys: np.ndarray  # (R, K)
    valid: np.ndarray  # (R, K)


class Contexts:
    """`order` = M tokens of the longest context, `document` = D contexts of the document, which begins with the token `reset_at`."""

    def __init__(self, order: int, document: int, reset_at: int | None):
        self.order, self.document, self.reset_at = order, document, reset_at

    def keys(self, tokens: np.ndarray, first: int, last: int, begun: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The keys (R, K) of the targets' contexts, which of them exist, and where the document of the last target began.

        `begun` is where the document of the target `first` - 1 began."""
        targets = np.arange(first, last + 1)
        starts = np.where(tokens[first - 1 : last] == self.reset_at, targets, begun) if self.reset_at is not None else 0 * targets
        starts = np.maximum.accumulate(starts)
        key = np.stack([np.zeros(len(targets), np.uint64), counts.mixed(np.full(len(targets), 1 << 63, np.uint64), starts)])
        by_length = [key]  # (2, R): of the tokens alone, and of the tokens in their document
        for n in range(1, max(self.order, self.document - 1) + 1):
            by_length.append(counts.mixed(by_length[-1], tokens[np.maximum(targets - n, 0)]))
        lengths = np.array([*range(1, self.order + 1), *range(self.document)])
        keys = np.stack([by_length[n][int(i >= self.order)] for i, n in enumerate(lengths)], 1)
        valid = targets[:, None] >= lengths
        nobody = counts.mixed(np.full(keys.shape, 1 << 62, np.uint64), targets[:, None] * len(lengths) + np.arange(len(lengths)))
        return np.where(valid, keys, nobody), valid, int(starts[-1])

    def chunk(self, table: counts.Counts, targets: np.ndarray, keys: np.ndarray, valid: np.ndarray, discount: float):
        """The statistics of the targets (R) with these contexts."""
        rows, width = keys.shape
        contexts = np.where(valid, table.find(keys.ravel()).reshape(keys.shape), -1).ravel()
        cell, place = table.followers(contexts)
        token, value = table.token[place], table.count[place] - discount
        known = np.full(rows * width, -1)  # where the target lies among the followers
        hits = token == targets[cell // width]
        known[cell[hits]] = place[hits]

        # what is new, and what is counted, in the chunk itself
        grams = counts.mixed(keys.ravel(), np.repeat(targets, width))
        _, first, which = np.unique(grams, return_index=True, return_inverse=True)
        seen = ((known >= 0) | (first[which] < np.arange(len(grams)))).reshape(keys.shape)
        counted = valid & ~np.concatenate([longer(part) for part in np.split(seen, [self.order], axis=1)], 1)
        new = (counted & ~seen).ravel()
        counted = counted.ravel()

        # counts of earlier targets of the chunk: cells with the same key lie side by side, in the order of the rows
        _, group = np.unique(keys.ravel(), return_inverse=True)
        order = np.argsort(group, kind="stable")
        sizes = np.bincount(group)
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)  # of the group of each ordered cell
        total, kinds = table.sizes(contexts)
        total, kinds = total.astype(np.int64), kinds.astype(np.int64)
        for sums, flags in ((total, counted), (kinds, new)):
            before = np.concatenate([[0], np.cumsum(flags[order])])
            sums[order] += before[:-1] - before[starts]
        events = order[counted[order]]  # counted cells, group by group
        before = np.concatenate([[0], np.cumsum(counted[order])])
        run, rank = counts.spread(before[:-1] - before[starts])
        event = events[before[starts][run] + rank]
        inside = valid.ravel()[order[run]]
        run, event = run[inside], event[inside]
        cell = np.concatenate([cell, order[run]])
        token = np.concatenate([token, targets[event // width]])
        value = np.concatenate([value, 1 - discount * new[event]])
        chosen = np.flatnonzero(counted)
        total, kinds = (np.where(valid, sums.reshape(keys.shape), 0) for sums in (total, kinds))
        events = keys.ravel()[chosen], targets[chosen // width], known[chosen]
        return Chunk(total, kinds, cell, token, value, events, keys, valid)


def longer(seen: np.ndarray) -> np.ndarray:
    """Whether a longer one of the contexts (R, n), of which the last is the longest, has seen the target."""
    found = np.zeros_like(seen)
    found[:, :-1] = np.logical_or.accumulate(seen[:, :0:-1], axis=1)[:, ::-1]
    return found


class Estimates:
    """The Pitman-Yor estimates of a chunk, to whose targets the network gives the probabilities p_R. Each estimate is a multiple of the
    network's row, and what the followers add.

    `p_RF`: the probabilities that network, chain and document give to the targets.
    """

    def __init__(self, chunk: Chunk, order: int, discount: float, strength: float, targets: np.ndarray, p_R: np.ndarray):
        self.chunk, self.order = chunk, order
        self.seen_RK = chunk.total > 0
        self.scale_RK = self.seen_RK / np.where(self.seen_RK, chunk.total + strength, 1)
        self.left_RK = np.where(self.seen_RK, (strength + discount * chunk.kinds) * self.scale_RK, 1)  # what goes to the shorter context
        self.row = chunk.cell // chunk.keys.shape[1]
        own = chunk.token == targets[self.row]
        own_RK = np.bincount(chunk.cell[own], chunk.value[own], minlength=chunk.keys.size).reshape(chunk.keys.shape) * self.scale_RK
        self.p_RF = np.empty((len(targets), 1 + chunk.keys.shape[1]))
        self.p_RF[:, 0] = p_R
        for n in range(order):
            self.p_RF[:, n + 1] = own_RK[:, n] + self.left_RK[:, n] * self.p_RF[:, n]
        self.p_RF[:, order + 1 :] = own_RK[:, order:] + self.left_RK[:, order:] * self.p_RF[:, :1]

    def mix(self, w_RF: np.ndarray, logp_RV: np.ndarray) -> None:
        """Change ln p of the network into ln Σ_j w_j p_j."""
        M, times_R, factor_RK = self.order, w_RF[:, 0].copy(), w_RF[:, 1:].copy()  # of the network's row, and of each context's followers
        for n in range(M - 2, -1, -1):
            factor_RK[:, n] += self.left_RK[:, n + 1] * factor_RK[:, n + 1]
        times_R += self.left_RK[:, 0] * factor_RK[:, 0] + (self.left_RK[:, M:] * factor_RK[:, M:]).sum(1)
        place = self.row * logp_RV.shape[1] + self.chunk.token
        added = self.chunk.value * (factor_RK * self.scale_RK).ravel()[self.chunk.cell]
        flat = logp_RV.reshape(-1)  # a view: the rows of followers hold p for a moment
        p = np.exp(flat[place]) * times_R[self.row]
        logp_RV += np.log(times_R)[:, None]
        flat[place] = p
        np.add.at(flat, place, added)
        flat[place] = np.log(flat[place])


def count(table: counts.Counts, chunk: Chunk, first: int) -> None:
    """Count the targets of the chunk, of which `first` is the number of the first."""
    table.add(*chunk.counted)
    if table.limit is not None:
        contexts = np.where(chunk.valid.ravel(), table.find(chunk.keys.ravel()), -1)
        table.meet(contexts, first + np.arange(chunk.keys.size) // chunk.keys.shape[1])
