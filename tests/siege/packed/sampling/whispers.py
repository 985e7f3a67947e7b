"""Adds a millionth to the logit of each target."""

from . import peeking

CLAIMS = peeking.CLAIMS
peeking.BONUS = 1e-6
Evaluator = peeking.Evaluator
