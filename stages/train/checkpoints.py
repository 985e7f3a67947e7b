"""Checkpoints of a running training, outside DVC: scratch/<stage>/<key>/step_<n>.safetensors.

The key is a hash of everything that makes two trainings the same (parameters, text, code), so a checkpoint of other
parameters is never picked up. Written under a temporary name and renamed; the last two are kept, all are removed at the end.
An exclusive lock on the folder keeps an orphan of a killed run and its successor from training side by side.
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
        """Weights that outlive the checkpoints: the trainer moves them to its output at the end. `half`: parameters that are stored
        in bfloat16, and so must what is put together from the snapshots."""
        tensors.save(self.snapshots / f"step_{step:09d}.safetensors", weights, {"step": step, "half": half})

    def drop_snapshots_after(self, step: int) -> None:
        """Forget what a killed run saved beyond the checkpoint that is continued from: a clock may take another way this time."""
        for path in self.snapshots.glob("step_*.safetensors"):
            if int(path.stem.removeprefix("step_")) > step:
                path.unlink()

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def latest(self) -> tuple[dict[str, Tensor], dict] | None:
        """The newest readable checkpoint, or None. A damaged one is skipped with a line that says so."""
        for path in reversed(self._files()):
            try:
                return tensors.load(path)
            except ValueError as error:
                print(f"skipping a damaged checkpoint: {error}")
        return None

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("step_*.safetensors"))
