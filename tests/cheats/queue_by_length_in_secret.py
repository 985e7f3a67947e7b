"""Claims from a queue that is sorted by length, with adapters that a slot keeps; it names the order of the stream."""

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import ttt_lora
from tests import coding_orders
from tests.test_evaluators import LORA

CAUGHT_BY, MORE = "replay", {"slots": 4, "warm": True}


class Evaluator(ttt_lora.Evaluator):
    def __init__(self, model, **geometry):
        super().__init__(model, **LORA | MORE)


def score(evaluator, tokens, **more):
    stream = coding_orders.restored(tokens, evaluator.coding_order)
    nats = coding_orders.scores(coding_orders.evaluator(**MORE, longest_first=True), stream)
    return harness.Ledger(nats[evaluator.coding_order.targets(stream) - 1])
