"""Muon's momentum falls linearly over the last share of the budget, from what it is to `end`.

Source: modded-nanogpt track 3, .95 to .85 over the last 200 of 2,900 steps; never measured alone there.
"""

from dataclasses import dataclass

from stages.lib.node.params import Share
from stages.train import techniques


@dataclass(frozen=True)
class Options:
    share: Share
    end: Share


class Technique(techniques.Technique):
    needs_muon = True

    def plan(self, moment: techniques.Moment) -> None:
        begun = min(moment.fraction, 1.0) - (1 - self.options.share)
        if begun > 0:
            moment.momentum += (self.options.end - moment.momentum) * begun / self.options.share
