"""Cautious weight decay: a weight decays only where the decay and the update point the same way.

    matrices     W <- W - rate U - rate decay W ⊙ [U ⊙ W >= 0]
    tables, ...  w <- w - rate u - rate decay w ⊙ [u w > 0]            u: AdamW's update, where `others`

Source: modded-nanogpt track 1, 10 November 2025 (on Adam with >), NorMuon's code; arXiv:2510.12402.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.train import techniques


@dataclass(frozen=True)
class Options:
    others: bool  # whether the parameters of AdamW decay cautiously too


class Technique(techniques.Technique):
    needs_muon = True

    def write(self, weights: list[Tensor], updates: list[Tensor], rate: float, decay: float) -> None:
        kept = [weight * (update * weight >= 0) for weight, update in zip(weights, updates, strict=True)]
        torch._foreach_add_(weights, updates, alpha=-rate)
        torch._foreach_add_(weights, kept, alpha=-rate * decay)

    def before_adam(self, groups: list, scale: float) -> None:
        self.before = []
        for group in groups if self.options.others else ():
            if group.weight_decay:
                self.before += [
                    (weight, weight.detach().clone(), scale * group.rate * group.weight_decay) for weight in group.weights.values()
                ]

    def grouped(self, groups: list) -> list:
        return [replace(group, weight_decay=0.0) for group in groups] if self.options.others else groups

    def after_adam(self) -> None:
        for weight, before, share in self.before:
            weight.sub_(before * ((before - weight) * before > 0), alpha=share)
        self.before = []
