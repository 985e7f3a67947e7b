"""L3 with a progressive context: as `packed`, but the longest segment grows with the share of the budget.

    context [[c_1, f_1], [c_2, f_2], ...]:  segments are cut at c_i, the first with fraction <= f_i
    after a change before step s_0:         every learning rate is multiplied by (s - s_0 + 1) / context_warmup_steps, at most 1

Nothing else changes: neither the tokens of a batch, nor their order, nor the positions that rotary embeddings see, which count through the
whole row. Momentum and averages go on. Source: #2014 (1024 to 0.1, 2048 to 0.7, 3072 to 1; 32 steps). There the batches that were read
ahead of a change are skipped; here they are read again.
"""

import math

from stages.lib.node.params import require
from stages.lib.tokens.loaders import packed


class Loader(packed.Loader):
    """The position is `longest_segment` and the step before which it became that, `since` (None: it never changed)."""

    stages, since, warmup_steps = ((0, 1.0),), None, 1

    def set_context(self, stages: tuple[tuple[float, ...], ...], warmup_steps: int) -> None:
        """ValueError for stages that do not grow to `sequence_length` and to all of the budget."""
        grown = zip(((0, 0), *stages), stages, strict=False)
        require(
            bool(stages)
            and all(len(stage) == 2 and a < b for before, stage in grown for a, b in zip(before, stage, strict=True))
            and stages[-1] == (self.sequence_length, 1),
            f"{self.section}.context is {[list(stage) for stage in stages]}; the loader progressive takes [tokens, share of the budget], "
            f"both growing, and at last [{self.sequence_length}, 1.0], which is {self.section}.sequence_length",
        )
        self.stages, self.warmup_steps, self.longest_segment = stages, warmup_steps, int(stages[0][0])
        self.changes = tuple(math.nextafter(end, 1) for _, end in stages[:-1])

    def longest_at(self, fraction: float) -> int:
        return int(next((tokens for tokens, end in self.stages if fraction <= end), self.stages[-1][0]))

    def progress(self, step: int, fraction: float) -> float:
        if (longest := self.longest_at(fraction)) != self.longest_segment:
            self.longest_segment, self.since = longest, step
        return 1.0 if self.since is None else min((step - self.since + 1) / self.warmup_steps, 1.0)

    def position(self) -> dict:
        return {"longest_segment": self.longest_segment, "since": self.since}

    def go_to(self, position: dict) -> None:
        self.longest_segment, self.since = position["longest_segment"], position["since"]
