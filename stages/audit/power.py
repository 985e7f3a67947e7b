"""How large a leak a test of sampled positions can miss.

A leak is at a fraction f of the positions and shows whenever one of them is tested; k positions are drawn independently of it:

    P(caught) = 1 - (1 - f)^k            k for P:  ln(1 - P) / ln(1 - f)            f caught with P:  1 - (1 - P)^(1/k)

If a leak makes each of its tokens free, the score is too low by at most f times its nats per token; `facts` gives this bound.
"""

import math

FRACTIONS = (0.1, 0.01, 0.002, 0.001)
CONFIDENCE = 0.99


def caught(fraction: float, positions: int) -> float:
    """Probability that at least one of `positions` randomly drawn positions has a leak that is at `fraction` of all positions."""
    return 1 - (1 - fraction) ** positions


def needed(fraction: float, confidence: float = CONFIDENCE) -> int:
    """How many positions must be drawn to find such a leak with probability `confidence`."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - fraction))


def found(positions: int, confidence: float = CONFIDENCE) -> float:
    """The smallest fraction of leaking positions that is found with probability `confidence`."""
    return 1 - (1 - confidence) ** (1 / positions) if positions else 1.0


def facts(positions: int, bits_per_byte: float) -> dict:
    """For a certificate: what a test of `positions` positions can find, and the largest gain that a leak it misses can give."""
    return {
        "positions": positions,
        "probability_to_catch_a_leak_at": {str(fraction): caught(fraction, positions) for fraction in FRACTIONS},
        "positions_for_99_percent": {str(fraction): needed(fraction) for fraction in FRACTIONS},
        "fraction_caught_with_99_percent": found(positions),
        "largest_gain_in_bits_per_byte_that_99_percent_do_not_exclude": found(positions) * bits_per_byte,
    }
