"""The curves of a running training as DVCLive's files, which `dvc plots` and the DVC extension of VS Code draw while it runs.

Only for train.live; not part of the one script. The rows come from the training's own curve, and a checkpoint holds that, so a run that was
killed and continues writes the same files as one that was not.
"""

import os
from pathlib import Path

from stages.lib.node.params import require

POINTS = 200  # at most so many of the training loss; each measurement on holdout is one more


class Curves:
    """Writes rows of the curve below `folder`, beginning with those of `curve`. What an earlier run left there is removed."""

    def __init__(self, folder: Path, curve: list[dict], *, steps: int):
        os.environ.setdefault("DVCLIVE_LOGLEVEL", "ERROR")
        try:
            from dvclive import Live
        except ImportError:
            require(False, "train.live needs the package dvclive; install it with: make setup, or set train.live to false")
        self.every = -(-steps // POINTS)
        self.live = Live(str(folder), report=None, save_dvc_exp=False, dvcyaml=str(folder / "dvc.yaml"))
        for row in curve:
            self.add(row)

    def add(self, row: dict) -> None:
        """One step of the training, written at once if its turn has come."""
        holdout = row["holdout_bits_per_byte"]
        if row["step"] % self.every and holdout is None:
            return
        self.live.step = row["step"]
        self.live.log_metric("train_loss", row["train_loss"])
        self.live.log_metric("learning_rate_scale", row["learning_rate_scale"])
        if holdout is not None:
            self.live.log_metric("holdout_bits_per_byte", holdout)
        self.live.sync()
