"""A memory that starts with what an earlier run counted: of the text that it scores now."""

from dataclasses import replace

from stages.runtime.scoring.evaluators import memory
from tests import cheats

CAUGHT_BY = "replay"
KEPT = []


class Evaluator(memory.Evaluator):
    def __init__(self, model, **windowing):
        super().__init__(model, network="sliding", **cheats.MEMORY, **windowing)
        if KEPT:
            self.state = replace(self.state, table=KEPT[-1].copy())
        KEPT.append(self.state.table)


def undo():
    KEPT.clear()
