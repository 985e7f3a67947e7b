"""A queue that is sorted by length, with adapters that a slot keeps (#1855): it says so, and no decoder can put the documents in place."""

from stages.runtime.scoring.evaluators import ttt_lora
from tests.test_evaluators import LORA

CAUGHT_BY = "round_trip"


class Evaluator(ttt_lora.Evaluator):
    def __init__(self, model, **geometry):
        super().__init__(model, **LORA | {"slots": 4, "warm": True, "longest_first": True})
