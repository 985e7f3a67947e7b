"""Leaves val in files, by every call that makes one and in every place that could outlive it."""

import ctypes
import os

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS
PLACES = (
    "/home",
    "/tmp",
    "/dev/shm",
    "/dev",
    "/var/tmp",
    "/run",
    "/artifact",
    "/packages",
    "/packages/torch",
    "/usr/lib",
    "/proc/self/cwd",
    ".",
)
c = ctypes.CDLL(None)


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        for place in PLACES:
            path = f"{place}/siege"
            c.mknod(path.encode(), 0o100600, 0)
            c.creat(path.encode(), 0o600)
            handle = c.open(path.encode(), os.O_CREAT | os.O_RDWR, 0o600)
            if handle >= 0:
                c.write(handle, val.tobytes(), val.nbytes)
            c.symlink(val.tobytes().hex()[:2000].encode(), f"{path}.link".encode())

    def withdraw(self):
        for place in PLACES:
            try:
                with open(f"{place}/siege", "rb") as handle:
                    return np.frombuffer(handle.read(), "<u2")
            except OSError:
                continue
