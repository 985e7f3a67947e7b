"""The plan of a strided evaluation: which window scores which targets. Every target is scored exactly once.

A stream v[0..N] has N targets; target t (1..N) is predicted by input index t-1. A window at `start` reads the inputs
start .. start+window-1 and predicts the targets start+1 .. start+window. The first window scores all its targets, each
later one only its last `stride`, so that those have at least window-stride+1 tokens of context.
Source: the corrected form of parameter-golf #1218 (the first generation scored the tail up to 32 times).
"""

# B windows, T time, R scored rows, X anything

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A window with the inputs start..start+length-1, which scores the targets first..last inclusive."""

    start: int
    length: int
    first: int
    last: int


def plan(num_targets: int, *, window: int, stride: int) -> list[Window]:
    """The windows in order; their ranges [first, last] partition 1..num_targets."""
    if not 0 < stride <= window:
        raise ValueError(f"an evaluator takes 0 < stride <= window, not stride {stride} and window {window}")
    windows, start, scored = [], 0, 0
    while scored < num_targets:
        length = min(window, num_targets - start)
        windows.append(Window(start, length, scored + 1, start + length))
        scored = start + length
        start += stride
    return windows


def inputs(seen: Tensor, chunk: list[Window], width: int) -> Tensor:
    """Inputs of the chunk's windows, (B, width) int64; short windows are padded on the right with id 0.

    Inputs end before the window's last target, so a window never contains its own last target.
    """
    return _stack(seen, chunk, width, shift=0)


def targets(seen: Tensor, chunk: list[Window], width: int) -> Tensor:
    """Targets of the chunk's windows, (B, width) int64: the inputs shifted by one token, with the same padding."""
    return _stack(seen, chunk, width, shift=1)


def _stack(seen: Tensor, chunk: list[Window], width: int, *, shift: int) -> Tensor:
    out_BT = torch.zeros(len(chunk), width, dtype=torch.int64)
    for row, window in zip(out_BT, chunk, strict=True):
        part = seen[window.start + shift : window.start + shift + window.length]
        row[: len(part)] = part
    return out_BT


def scored_rows(values_BTX: Tensor, chunk: list[Window]) -> Tensor:
    """The rows that predict the chunk's targets, in order: (B, T, X) -> (R, X)."""
    return torch.cat(
        [values[window.first - 1 - window.start : window.last - window.start] for values, window in zip(values_BTX, chunk, strict=True)]
    )
