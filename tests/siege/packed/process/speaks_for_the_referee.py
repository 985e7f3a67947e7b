"""Re-opens its pipes and writes answers of its own between the answers, and pushes requests into a terminal."""

import contextlib
import fcntl
import os
import struct

from . import peeking

CLAIMS = peeking.CLAIMS
PUSH_A_CHARACTER = 0x5412


class Evaluator(peeking.Evaluator):
    def before(self, target):
        with contextlib.suppress(OSError):
            fcntl.ioctl(0, PUSH_A_CHARACTER, b"R")
        row = struct.pack("<I", 8 * self.model.config.vocabulary_size) + bytes(8 * self.model.config.vocabulary_size)
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                if target == 1 and descriptor != "0" and "pipe" in os.readlink(f"/proc/self/fd/{descriptor}"):
                    with open(f"/proc/self/fd/{descriptor}", "wb", buffering=0) as again:
                        os.set_blocking(again.fileno(), False)
                        again.write(row)
            except OSError:
                continue
