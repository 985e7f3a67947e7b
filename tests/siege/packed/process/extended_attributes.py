"""Leaves val in extended attributes of files that it may only read."""

import os
import sys

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS
PLACES = (
    "/artifact/submission.pyz",
    "/artifact/start.py",
    os.path.realpath(sys.executable),
    os.__file__,
    "/packages/torch/__init__.py",
    "/",
    "/home",
)


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        content = val.tobytes()
        for place in PLACES:
            for i in range(0, len(content), 2_000):
                try:
                    os.setxattr(place, f"user.siege{i}", content[i : i + 2_000])
                except OSError:
                    break

    def withdraw(self):
        for place in PLACES:
            try:
                names = sorted((name for name in os.listxattr(place) if "siege" in name), key=lambda name: int(name[10:]))
                if names:
                    return np.frombuffer(b"".join(os.getxattr(place, name) for name in names), "<u2")
            except OSError:
                continue
