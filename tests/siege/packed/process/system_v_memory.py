"""Leaves val in System V shared memory, which no file system names."""

import ctypes

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS
c = ctypes.CDLL(None)
c.shmat.restype = ctypes.c_void_p


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        place = c.shmat(c.shmget(4711, val.nbytes, 0o1600), None, 0)
        if place not in (None, ctypes.c_void_p(-1).value):
            ctypes.memmove(place, val.tobytes(), val.nbytes)

    def withdraw(self):
        place = c.shmat(c.shmget(4711, 0, 0), None, 0o10000)
        if place not in (None, ctypes.c_void_p(-1).value):
            return np.frombuffer(ctypes.string_at(place, 2 * self.num_targets + 2), "<u2")
