"""Claims from a phase that trained on the longest documents, which were scored first (#2135); it names the order of the stream."""

from stages.runtime.scoring import harness
from stages.runtime.scoring.evaluators import ttt_phased
from tests import coding_orders
from tests.test_evaluators import LORA, PHASES

CAUGHT_BY, MORE = "replay", {"slots": 4, "phases": [2]}


class Evaluator(ttt_phased.Evaluator):
    def __init__(self, model, **geometry):
        super().__init__(model, **LORA | PHASES | MORE)


def score(evaluator, tokens, **more):
    stream = coding_orders.restored(tokens, evaluator.coding_order)
    nats = coding_orders.scores(coding_orders.evaluator(**MORE, longest_first=True), stream)
    return harness.Ledger(nats[evaluator.coding_order.targets(stream) - 1])
