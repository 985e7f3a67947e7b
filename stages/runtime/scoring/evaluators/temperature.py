"""Sliding window with the logits divided by a constant: z / temperature.

The constant belongs to the artifact: `python -m stages.evaluate.temperature` fits it on holdout, never on the scored text.
"""

from torch import Tensor

from ...tokens import windows
from .. import adaptation
from . import sliding

CLAIMS = ("causal", "score_first", "single_pass")


class Evaluator(sliding.Evaluator):
    """Options of `sliding`, and temperature."""

    def __init__(self, model, *, temperature: float, **windowing):
        super().__init__(model, **windowing)
        adaptation.require("temperature", temperature, (int, float), 1e-3, 1e3)
        self.temperature = temperature

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        return super().predict(seen, chunk) / self.temperature
