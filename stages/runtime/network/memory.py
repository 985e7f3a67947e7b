"""Keys and values that one forward pass keeps for the next: attention over a sliding window in a single pass over a stream.

Each run of an attention layer keeps the keys and values of the last window-1 tokens, before rotation. Scores depend on distances only,
so the kept keys get new positions in every pass. In every layer, a token reads the window-1 tokens before it and itself.

Some features read earlier tokens instead of keys: the hashes and gates at the embedding reach up to three tokens back. So a pass repeats
the last LOOKBACK tokens of the pass before. Their keys are not kept twice, and the caller must drop their rows.
"""

# B batch, T rows of a pass, S all keys, G key/value heads, K head width

import torch
from torch import Tensor

LOOKBACK = 4


class Memory:
    """Keys and values (B, S, G, K) in the order in which the layers run: `old` are read by a pass, `kept` are kept for the next."""

    def __init__(self, window: int, old: tuple[tuple[Tensor, Tensor], ...] = (), *, repeated: int = 0):
        if window <= LOOKBACK:
            raise ValueError(f"a sliding memory takes a window of more than {LOOKBACK} tokens, not {window}")
        self.window, self.old, self.repeated = window, old, repeated
        self.kept: tuple[tuple[Tensor, Tensor], ...] = ()

    def next(self, repeated: int) -> "Memory":
        """The memory for a next pass that begins with the last `repeated` tokens of this one. This memory is not modified."""
        return Memory(self.window, self.kept, repeated=repeated)

    def extend(self, k_BTGK: Tensor, v_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values that the current layer may read: those of earlier passes and those of the new rows."""
        k_BSGK, v_BSGK = k_BTGK, v_BTGK
        if self.old:
            k_BSGK, v_BSGK = (
                torch.cat((kept, new[:, self.repeated :]), dim=1)
                for kept, new in zip(self.old[len(self.kept)], (k_BTGK, v_BTGK), strict=True)
            )
        first = max(k_BSGK.size(1) - self.window + 1, 0)
        self.kept += ((k_BSGK[:, first:], v_BSGK[:, first:]),)
        return k_BSGK, v_BSGK
