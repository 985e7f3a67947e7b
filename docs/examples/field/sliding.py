"""train_gpt.py as a program that a referee can question: the model, and the score of its windows. The kit does the rest."""

from pathlib import Path

import train_gpt
from caddie import kit


class Evaluator(kit.Windows):
    def __init__(self, model, **options):
        super().__init__(model, **({"window": train_gpt.WINDOW, "stride": train_gpt.STRIDE} | options))

    def score(self, tokens_BT):
        return self.model(tokens_BT)


model = train_gpt.load_model(str(Path(__file__).with_name("model.npz")))
kit.serve(lambda: model, Evaluator, vocabulary=model.wte.num_embeddings)
