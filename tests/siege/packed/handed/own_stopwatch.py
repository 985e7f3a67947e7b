"""Slows its clock down a thousand times."""

import time

from . import sliding

CLAIMS = sliding.CLAIMS
tick = time.perf_counter
time.perf_counter = lambda: tick() / 1000
Evaluator = sliding.Evaluator
