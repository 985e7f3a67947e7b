"""Sparse gate: a gate for each head, read from a few features of attention's input.

    y_{t,h} <- σ(factor W_lh . u_t[:window]) y_{t,h}          W starts at 0: every gate at 0.5

Source: parameter-golf #1787 (factor 1), #1855 (factor 0.5, window 12).
"""

from ..config import ModelConfig
from . import WindowGate


class Feature(WindowGate):
    """Parameter: weight (L, H, W)."""

    def __init__(self, config: ModelConfig, *, window: int, factor: float):
        super().__init__(config, window=window)
        self.factor = factor
