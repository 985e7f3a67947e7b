"""Checkpoints of a running training, outside DVC: scratch/<stage>/<key>/step_<n>.safetensors.

The key is a hash of everything that the training depends on (parameters, text, code), so a checkpoint made with other parameters is never
used. A checkpoint is written under a temporary name and renamed. The last two are kept; all are removed at the end. An exclusive lock on
the folder prevents a still running earlier process and its successor from training at the same time.
"""

from pathlib import Path

from torch import Tensor

from stages.lib.node import scratch, tensors

KEEP = 2


class Folder(scratch.Folder):
    """The checkpoints of one training."""

    def save(self, step: int, state: dict[str, Tensor], facts: dict) -> None:
        tensors.save(self.path / f"step_{step:09d}.safetensors", state, facts)
        for old in self._files()[:-KEEP]:
            old.unlink()

    def save_snapshot(self, step: int, weights: dict[str, Tensor], *, half: list[str]) -> None:
        """Save weights that outlive the checkpoints: the trainer moves them to its output at the end. `half`: parameters that are stored in
        bfloat16, so that an average computed from the snapshots must be rounded to bfloat16 too."""
        tensors.save(self.snapshots / f"step_{step:09d}.safetensors", weights, {"step": step, "half": half})

    def drop_snapshots_after(self, step: int) -> None:
        """Delete what a killed run saved after the checkpoint that is continued from, because a real clock may now take other steps."""
        for path in self.snapshots.glob("step_*.safetensors"):
            if int(path.stem.removeprefix("step_")) > step:
                path.unlink()

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def latest(self) -> tuple[dict[str, Tensor], dict] | None:
        """The newest readable checkpoint, or None. A damaged one is skipped, and a line says so."""
        for path in reversed(self._files()):
            try:
                return tensors.load(path)
            except ValueError as error:
                print(f"skipping a damaged checkpoint: {error}")
        return None

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("step_*.safetensors"))
