"""A program that answers a referee, made of a PyTorch model and an evaluator that were written elsewhere (docs/outside.md).

from caddie import kit

class Evaluator(kit.Windows):
    def score(self, tokens_BT):
        return self.model(tokens_BT)                                    # logits (B, T, V)

kit.serve(load, Evaluator, vocabulary=1024)                             # load() gives the model
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import serve as loop
from .tokens import windows


class Windows:
    """Scores each target once, in windows of `window` tokens that move on by `stride`; `batch` windows at a time.

    A subclass defines `score`: tokens (B, window) int64, padded with 0 on the right, -> logits (B, window, V) of the token behind each. Any
    class with the methods chunks, predict and learn (docs/protocol.md) can take its place.
    """

    CLAIMS = ("causal", "score_first", "single_pass")
    carries = False  # nothing from one batch to the next

    def __init__(self, model, *, window: int = 1024, stride: int = 64, batch: int = 32):
        self.model, self.window, self.stride, self.batch = model, window, stride, batch

    def chunks(self, num_targets: int) -> Iterator[list[windows.Window]]:
        plan = windows.plan(num_targets, window=self.window, stride=self.stride)
        yield from (plan[i : i + self.batch] for i in range(0, len(plan), self.batch))

    def predict(self, seen: Tensor, chunk: list[windows.Window]) -> Tensor:
        """Logits (R, V) of the chunk's targets. `seen`: all tokens up to the last of them."""
        with torch.no_grad():
            return windows.scored_rows(self.score(windows.inputs(seen, chunk, self.window)), chunk)

    def learn(self, seen: Tensor, chunk: list[windows.Window]) -> None:
        """Called when the chunk is scored. This class learns nothing."""

    def score(self, tokens_BT: Tensor) -> Tensor:
        raise NotImplementedError


def serve(load: Callable[[], torch.nn.Module], evaluator: type, *, vocabulary: int) -> None:
    """Answer until the requests end. `load` gives the model, from files beside the program; `evaluator` is built as evaluator(model,
    **options) with the options of the referee, and has CLAIMS."""

    def opened(name: str, options: dict, *, threads: int, device: str):
        chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        model = load().eval().to(chosen)
        torch.set_default_device(chosen)
        return evaluator, lambda options: evaluator(model, **options), chosen

    loop.main(None, opened, vocabulary)
