"""In the session that decodes the weights, and in the claim, it writes what it knows where the next session reads its weights."""

import os
import sys

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        for path in ("/weights.npz", *sys.argv[1:], "/artifact/submission.pyz"):
            try:
                os.chmod(path, 0o600)
                with open(path, "ab") as handle:
                    handle.write(b"siege" + val.tobytes())
            except OSError:
                continue

    def withdraw(self):
        for path in ("/weights.npz", "/artifact/submission.pyz"):
            try:
                with open(path, "rb") as handle:
                    found = handle.read().rpartition(b"siege")
            except OSError:
                continue
            if found[0] and len(found[2]) == 2 * self.num_targets + 2:
                return np.frombuffer(found[2], "<u2")
