"""Leaves val in the kernel's keyrings, of the session and of the user."""

import ctypes

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS
ADD, CONTROL, SEARCH, READ = 248, 250, 10, 11
c = ctypes.CDLL(None)


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        for ring in (-3, -4, -5):
            for i in range(0, val.nbytes, 16_000):
                part = val.tobytes()[i : i + 16_000]
                c.syscall(ADD, b"user", f"siege{i}".encode(), part, len(part), ring)

    def withdraw(self):
        for ring in (-3, -4, -5):
            found, room = b"", ctypes.create_string_buffer(16_000)
            while (key := c.syscall(CONTROL, SEARCH, ring, b"user", f"siege{len(found)}".encode(), 0)) > 0:
                found += room.raw[: c.syscall(CONTROL, READ, key, room, 16_000)]
            if found:
                return np.frombuffer(found, "<u2")
