"""EMA-Nesterov: the gradient is taken where a slow average of all past steps would lead.

    before the forward pass   θ <- θ + strength s m        while start <= f < end; s: multiplier of the others' rates
    after the step            m <- decay m + (1 - decay) (θ - θ');   θ' <- θ

The difference includes the look-ahead. m starts at 0, and again when the recurrence switches on, because the network is then another.
Source: arXiv:2605.25395; modded-nanogpt track 3, #39 (strength .6, decay .99) and #40 (.3, with SOAP).
"""

from dataclasses import dataclass

import torch

from stages.lib.node.params import Decay, NonNegative, Share
from stages.train import techniques
from stages.train.optim import kept


@dataclass(frozen=True)
class Options:
    strength: NonNegative
    decay: Decay
    start: Share
    end: Share


class Technique(techniques.Technique):
    @torch.no_grad()
    def look_ahead(self, moment: techniques.Moment) -> None:
        chosen, steps, _ = self.options, kept.zeros(self, "momentum"), kept.copies(self, "before")
        looping = self.tensors.setdefault("looping", torch.tensor(moment.looping))
        if bool(looping) != moment.looping:
            looping.fill_(moment.looping)
            torch._foreach_zero_(list(steps.values()))
        if chosen.start <= moment.fraction < chosen.end:
            torch._foreach_add_(list(self.model.parameters()), self._typed(steps), alpha=chosen.strength * moment.others)

    @torch.no_grad()
    def stepped(self, moment: techniques.Moment) -> None:
        steps, before = kept.zeros(self, "momentum"), kept.copies(self, "before")
        now = kept.now(self)
        differences = torch._foreach_sub(now, list(before.values()))
        torch._foreach_lerp_(list(steps.values()), differences, 1 - self.options.decay)
        torch._foreach_copy_(list(before.values()), now)

    def _typed(self, tensors: dict) -> list:
        return [tensors[name].to(weight.dtype) for name, weight in self.model.named_parameters()]
