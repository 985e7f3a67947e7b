"""Uses whatever a privileged jail leaves: writes the kernel's settings, makes what is read-only writable, uncovers what is hidden."""

import ctypes
import os
from pathlib import Path

import numpy as np

from . import peeking

CLAIMS = peeking.CLAIMS
c = ctypes.CDLL(None)
PLACE, REMOUNT_WRITABLE = "/packages/filelock", 32 | 4096
SETTINGS = ("kernel/ns_last_pid", "vm/stat_interval", "kernel/random/urandom_min_reseed_secs")


class Evaluator(peeking.Evaluator):
    def deposit(self, val):
        for setting in SETTINGS:
            try:
                with open(f"/proc/sys/{setting}", "r+") as handle:
                    handle.write(handle.read())
            except OSError:
                pass
        for words in ((), (0x10000000 | 0x20000,)):  # once as it is, once in namespaces of its own
            if words:
                c.unshare(*words)
            c.mount(None, PLACE.encode(), None, REMOUNT_WRITABLE, None)
            try:
                with open(f"{PLACE}/siege", "wb") as handle:
                    handle.write(val.tobytes())
            except OSError:
                pass

    def withdraw(self):
        for line in Path("/proc/mounts").read_text().splitlines():
            c.umount2(line.split()[1].encode(), 2)
        places = [f"{PLACE}/siege"]
        for folder, folders, names in os.walk("/"):
            folders[:] = [name for name in folders if folder != "/" or name not in ("proc", "sys")]
            places += [f"{folder}/{name}" for name in names if name == "fineweb_val_000000.bin"]
        for path in places:
            try:
                with open(path, "rb") as handle:
                    content = handle.read()
                if path.endswith("siege"):
                    os.unlink(path)
                return np.frombuffer(content[1024 if path.endswith("bin") else 0 :], "<u2")
            except OSError:
                continue
