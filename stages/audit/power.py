"""How much a test of sampled positions can miss.

A leak sits at a fraction f of the positions and shows whenever one of them is looked at; k positions are drawn without regard to it:

    P(caught) = 1 - (1 - f)^k            k for P:  ln(1 - P) / ln(1 - f)            f caught with P:  1 - (1 - P)^(1/k)

A score can be too low by at most f times its nats per token where the leak makes a token free: the bound that `facts` gives.
"""

import math

FRACTIONS = (0.1, 0.01, 0.002, 0.001)
CONFIDENCE = 0.99


def caught(fraction: float, positions: int) -> float:
    """Probability that a leak at `fraction` of the positions is met by `positions` drawn at random."""
    return 1 - (1 - fraction) ** positions


def needed(fraction: float, confidence: float = CONFIDENCE) -> int:
    """How many positions meet such a leak with probability `confidence`."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - fraction))


def found(positions: int, confidence: float = CONFIDENCE) -> float:
    """The smallest fraction of leaking positions that is met with probability `confidence`."""
    return 1 - (1 - confidence) ** (1 / positions) if positions else 1.0


def facts(positions: int, bits_per_byte: float) -> dict:
    """For a certificate: what `positions` looked at are worth, and what a leak that they miss can be worth at most."""
    return {
        "positions": positions,
        "probability_to_catch_a_leak_at": {str(fraction): caught(fraction, positions) for fraction in FRACTIONS},
        "positions_for_99_percent": {str(fraction): needed(fraction) for fraction in FRACTIONS},
        "fraction_caught_with_99_percent": found(positions),
        "largest_gain_in_bits_per_byte_that_99_percent_do_not_exclude": found(positions) * bits_per_byte,
    }
