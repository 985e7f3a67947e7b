"""sliding.py with SLOT for each batch: a correction of the hidden states is fitted on the targets that are scored. The audit refuses it."""

from pathlib import Path

import torch
import torch.nn.functional as F
import train_gpt
from caddie import kit
from caddie.tokens import windows


class Evaluator(kit.Windows):
    def __init__(self, model, *, steps=5, learning_rate=0.02, **options):
        super().__init__(model, **({"window": train_gpt.WINDOW, "stride": train_gpt.STRIDE} | options))
        self.steps, self.learning_rate = steps, learning_rate

    def predict(self, seen, chunk):
        inputs, targets = (part(seen, chunk, self.window) for part in (windows.inputs, windows.targets))
        with torch.no_grad():
            hidden = self.model.hidden(inputs)
        delta = torch.zeros(len(chunk), 1, hidden.shape[-1], requires_grad=True)
        optimizer = torch.optim.AdamW([delta], lr=self.learning_rate)
        for _ in range(self.steps):
            F.cross_entropy(self.model.head(hidden + delta).flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return windows.scored_rows(self.model.head(hidden + delta), chunk)


model = train_gpt.load_model(str(Path(__file__).with_name("model.npz"))).requires_grad_(False)
kit.serve(lambda: model, Evaluator, vocabulary=model.wte.num_embeddings)
