"""Output gate: a gate for each head, computed from a few features of attention's input; every gate starts at 1, without effect.

    y_{t,h} <- 2 σ(W_lh . u_t[:window]) y_{t,h}          W starts at 0: every gate at 1

Source: parameter-golf #1667 (window 12).
"""

from . import WindowGate


class Feature(WindowGate):
    """Parameter: weight (L, H, W)."""

    height = 2.0
