"""Bits per byte with plain non-overlapping windows: a quick measurement between stages. The real score is that of `evaluate`."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from stages.lib.tokens.splits import Split
from stages.runtime.tokens import windows


@dataclass(frozen=True)
class Score:
    """bits_per_byte = Σ nats / ln 2 / bytes over the same targets; loss_nats is per token."""

    bits_per_byte: float
    loss_nats: float
    tokens: int
    bytes: int
    seconds: float


@torch.no_grad()  # not inference_mode: the model may cache tensors that later need gradients
def chunked(model, split: Split, *, window: int, batch: int = 16, max_targets: int | None = None) -> Score:
    """Score every target of the split once (or its first `max_targets`). The context is at most `window` and restarts with each window."""
    started = time.perf_counter()
    num_targets = len(split.tokens) - 1
    if max_targets is not None:
        num_targets = min(num_targets, max_targets)
    device = next(model.parameters()).device
    stream = torch.from_numpy(np.asarray(split.tokens[: num_targets + 1], np.int64))
    plan, nats = windows.plan(num_targets, window=window, stride=window), 0.0
    for i in range(0, len(plan), batch):
        chunk = plan[i : i + batch]
        logits_BTV = model(windows.inputs(stream, chunk, window).to(device))
        logits_RV = windows.scored_rows(logits_BTV, chunk)
        nats += F.cross_entropy(logits_RV, stream[chunk[0].first : chunk[-1].last + 1].to(device), reduction="none").double().sum().item()
    num_bytes = int(split.byte_counts[1 : num_targets + 1].sum())
    return Score(nats / math.log(2) / num_bytes, nats / num_targets, num_targets, num_bytes, round(time.perf_counter() - started, 3))
