"""Prefix prediction: in training, the token that spells the beginning of the next token is a second target.

    loss + w / N Σ_t CE(c tanh(z_t / c), pre(y_t))          over the t of N whose next token y_t has a prefix; z the logits of the model

pre(y) is the token whose bytes are the longest proper prefix of those of y (lib/text/prefixes.py). With p the share of the budget that is
done, w is `weight` for p < 1/3, falls linearly to 0 at 2/3, and stays 0. A model is scored by its own loss alone, so a score is a code
whatever w was, and the artifact has nothing of this.

Source: modded-nanogpt, PR #337, May 2026 (weight 0.25), there beside multi-token prediction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from . import require


class Feature(nn.Module):
    """No parameters. Buffers that are not saved: prefix (V), -1 for tokens without one, and the present weight."""

    def __init__(self, config: ModelConfig, *, weight: float):
        super().__init__()
        require(weight > 0, f"model.features.prefix_prediction.weight is {weight}; it takes more than 0")
        self.weight, self.cap = weight, config.logit_softcap
        self.register_buffer("prefix_V", torch.full((config.vocabulary_size,), -1), persistent=False)
        self.register_buffer("now", torch.zeros(()), persistent=False)

    def vocabulary(self, facts: dict) -> None:
        require(
            len(facts.get("prefixes", ())) == len(self.prefix_V),
            "the train tokens were made without the table of prefixes that prefix_prediction needs; run: dvc repro tokenize",
        )
        self.prefix_V.copy_(torch.tensor(facts["prefixes"]))

    def progress(self, model, *, step: float, fraction: float) -> None:
        self.now.fill_(self.weight * min(max(2 - 3 * fraction, 0.0), 1.0))

    def auxiliary_loss(self, hidden_BTD: Tensor, targets_BT: Tensor, logits_NV: Tensor) -> Tensor:
        prefixes_N = self.prefix_V[targets_BT.flatten()]
        capped_NV = self.cap * torch.tanh(logits_NV.float() / self.cap)
        return self.now * F.cross_entropy(capped_NV, prefixes_N, ignore_index=-1, reduction="sum") / len(prefixes_N)
