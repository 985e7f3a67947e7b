"""Learns from chunk to chunk and says that it does not, so that it may run on eight processes."""

from stages.runtime.scoring.evaluators import online_bias

CAUGHT_BY = "replay"


class Evaluator(online_bias.Evaluator):
    carries = False

    def __init__(self, model, **windowing):
        super().__init__(model, learning_rate=0.05, **windowing)
        self.carries = False
