"""Read the next batch while the current one is used: one thread reads one batch ahead, into pinned memory for a GPU."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from stages.lib.node.launch import World
from stages.lib.tokens.loader import Batch, Loader


class Prefetcher:
    """A loader's batches in the order of the steps, on the device. `position` is the state before the batch that was read ahead.

    `is_ahead` helps on a GPU. On a CPU the cores are busy anyway, and reading takes a thousandth of a step.
    """

    def __init__(self, loader: Loader, world: World, *, is_ahead: bool):
        self.loader, self.world, self.batch_tokens = loader, world, loader.batch_tokens
        self.reader = ThreadPoolExecutor(1) if is_ahead else None
        self.ahead: tuple[int, Future, dict] | None = None

    def batch(self, step: int) -> Batch:
        """This process's rows of a step."""
        if self.reader is None:
            return self._read(step).to(self.world.device)
        if self.ahead is None or self.ahead[0] != step:
            self._forget()
            self._start(step)
        found = self.ahead[1].result()
        self._start(step + 1)
        return found.to(self.world.device)

    def position(self) -> dict:
        """The state that a checkpoint must hold beside the step."""
        return self.ahead[2] if self.ahead else self.loader.position()

    def go_to(self, position: dict) -> None:
        self._forget()
        self.loader.go_to(position)

    def _start(self, step: int) -> None:
        position = self.loader.position()  # the thread is idle now
        self.ahead = step, self.reader.submit(self._read, step), position

    def _forget(self) -> None:
        """Drop the batch ahead, and put the loader back to before it."""
        if self.ahead:
            self.ahead[1].result()
            self.loader.go_to(self.ahead[2])
            self.ahead = None

    def _read(self, step: int) -> Batch:
        batch = self.loader.batch(step, rank=self.world.rank, world_size=self.world.size)
        if self.world.device.type != "cuda":
            return batch
        cu_seqlens = None if batch.cu_seqlens is None else batch.cu_seqlens.pin_memory()
        return replace(batch, inputs=batch.inputs.pin_memory(), targets=batch.targets.pin_memory(), cu_seqlens=cu_seqlens)
