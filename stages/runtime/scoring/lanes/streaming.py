"""Lanes of the evaluator `streaming`: a batch of L rows, each of which goes on from its own keys and values."""

# L lanes, T tokens, D width, V vocabulary

import numpy as np
import torch
from torch import Tensor

from ...network.features import Pass
from ...network.memory import LOOKBACK, Memory


def suits(options: dict) -> bool:
    return True


class Latest:
    """A last hook before the layers. It drops the rows of repeated tokens, which only the features at the embedding read."""

    def stream(self, x_LTD: Tensor, now: Pass) -> Tensor:
        if isinstance(now.past, Kept):
            now.tokens_BT = now.tokens_BT[:, -1:]
            return x_LTD[:, -1:]
        return x_LTD


class Kept(Memory):
    """Keys and values of the last `window` tokens, in buffers that are twice as long, so that they seldom have to move."""

    def __init__(self, window: int):
        super().__init__(window)
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.end, self.run = 0, 0

    def begin(self) -> None:
        """Begin a pass of one more token."""
        if self.end == 2 * self.window:
            for buffer in (part for pair in self.buffers for part in pair):
                buffer[:, : self.window - 1] = buffer[:, self.window + 1 :].clone()
            self.end = self.window - 1
        self.end, self.run = self.end + 1, 0

    def extend(self, k_LTGK: Tensor, v_LTGK: Tensor) -> tuple[Tensor, Tensor]:
        if self.run == len(self.buffers):
            self.buffers.append(tuple(new.new_empty(new.size(0), 2 * self.window, *new.shape[2:]) for new in (k_LTGK, v_LTGK)))
        buffers = self.buffers[self.run]
        self.run += 1
        for buffer, new in zip(buffers, (k_LTGK, v_LTGK), strict=True):
            buffer[:, self.end - 1 : self.end] = new
        return tuple(buffer[:, max(self.end - self.window, 0) : self.end] for buffer in buffers)


class Lanes:
    """Features read at most LOOKBACK earlier tokens, so a pass computes these again up to the first layer, for all lanes alike."""

    def __init__(self, evaluator, lanes: int, first: int):
        self.model, self.kept = evaluator.model, Kept(evaluator.memory.window)
        self.tokens_LT = torch.full((lanes, 1), first)
        if not any(isinstance(feature, Latest) for feature in self.model.hooks.having["stream"]):
            self.model.hooks.having["stream"].append(Latest())

    @torch.inference_mode()
    def rows(self) -> np.ndarray:
        self.kept.begin()
        hidden_L1D = self.model.hidden(self.tokens_LT, memory=self.kept)
        return self.model.head(hidden_L1D[:, 0]).double().softmax(-1).cpu().numpy()

    def push(self, tokens: np.ndarray) -> None:
        new_L1 = torch.as_tensor(tokens, device=self.tokens_LT.device)[:, None]
        self.tokens_LT = torch.cat((self.tokens_LT[:, -LOOKBACK:], new_L1), 1)
