"""Read the next batch while the current one is used: one thread reads one batch ahead, into pinned memory for a GPU.

A batch is divided into its parts here, before it is on the device, because to find the segments of a part there would wait for the device.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from stages.lib.node.launch import World
from stages.lib.tokens.loader import Batch, Loader


class Prefetcher:
    """A loader's batches in the order of the steps, on the device, in parts of `part_tokens` tokens (None: one part). `position` is the
    state before the batch that was read ahead.

    `is_ahead` helps on a GPU. On a CPU the cores are busy anyway, and reading takes a thousandth of a step.
    """

    def __init__(self, loader: Loader, world: World, *, part_tokens: int | None, is_ahead: bool):
        self.loader, self.world, self.part_tokens, self.batch_tokens = loader, world, part_tokens, loader.batch_tokens
        self.reader = ThreadPoolExecutor(1) if is_ahead else None
        self.ahead: tuple[int, Future, dict] | None = None

    def progress(self, step: int, fraction: float) -> float:
        """The loader's. What was read ahead is read again if it changes."""
        if self.loader.longest_at(fraction) != self.loader.longest_segment:
            self._forget()
        return self.loader.progress(step, fraction)

    def parts(self, step: int) -> list[Batch]:
        """This process's rows of a step."""
        return [part.to(self.world.device) for part in self._parts(step)]

    def _parts(self, step: int) -> list[Batch]:
        if self.reader is None:
            return self._read(step)
        if self.ahead is None or self.ahead[0] != step:
            self._forget()
            self._start(step)
        found = self.ahead[1].result()
        self._start(step + 1)
        return found

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

    def _read(self, step: int) -> list[Batch]:
        batch = self.loader.batch(step, rank=self.world.rank, world_size=self.world.size)
        parts = batch.parts(self.part_tokens or batch.inputs.numel())
        return [pinned(part) for part in parts] if self.world.device.type == "cuda" else parts


def pinned(batch: Batch) -> Batch:
    """The same batch in pinned memory, without gaps in a tensor: torch copies one with gaps through other memory, and waits for it."""
    kept = {name: getattr(batch, name) for name in ("inputs", "targets", "cu_seqlens")}
    return replace(batch, **{name: tensor.contiguous().pin_memory() for name, tensor in kept.items() if tensor is not None})
