"""Tail blend: an average of the last steps that replaces the rest of a cooldown which was cut short.

    e <- e + (w - e) / steps  after each step from the share `start` of the budget on, e = w there;   tail_blend = (1 - share) w + share e

The token embedding keeps w. Training is the same with and without it; `ema.average: tail_blend` takes the result. It gains where the rates
are still high at the end, and harms by .0004 of the loss where they fell to 0: in #46 it was worth .0075 at 2,600 steps of a
schedule of 2,900, nothing at 2,820. Source: modded-nanogpt track 3, #45, #46 (150 steps, share .6, start .83).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.lib.node.params import AtLeastOne, Share
from stages.train import techniques
from stages.train.optim import kept


@dataclass(frozen=True)
class Options:
    start: Share
    steps: AtLeastOne
    share: Share


class Technique(techniques.Technique):
    @torch.no_grad()
    def stepped(self, moment: techniques.Moment) -> None:
        if moment.fraction >= self.options.start:
            average = kept.copies(self, "average")
            torch._foreach_lerp_(list(average.values()), kept.now(self), 1 / self.options.steps)

    def averages(self) -> dict[str, dict[str, Tensor]]:
        blended, average = {}, kept.copies(self, "average")
        for name, weight in self.model.named_parameters():
            own = weight.detach().float()
            blended[name] = own if name == "embedding.weight" else own.lerp(average[name], self.options.share)
        return {"tail_blend": blended}
