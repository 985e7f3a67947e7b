"""Output gate: a gate for each head, read from a few features of attention's input, that starts fully transparent.

    y_{t,h} <- 2 σ(W_lh . u_t[:window]) y_{t,h}          W starts at 0: every gate at 1

Source: parameter-golf #1667 (window 12).
"""

from . import WindowGate


class Feature(WindowGate):
    """Parameter: weight (L, H, W)."""

    height = 2.0
