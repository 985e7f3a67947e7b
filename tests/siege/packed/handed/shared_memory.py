"""Leaves val in POSIX shared memory."""

import _posixshmem
import mmap
import os

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        handle = _posixshmem.shm_open("/siege", os.O_CREAT | os.O_RDWR, mode=0o600)
        os.ftruncate(handle, val.nbytes)
        mmap.mmap(handle, val.nbytes)[:] = val.tobytes()

    def withdraw(self):
        try:
            return np.frombuffer(mmap.mmap(_posixshmem.shm_open("/siege", os.O_RDONLY, mode=0o600), 0, prot=mmap.PROT_READ), "<u2")
        except OSError:
            return None
