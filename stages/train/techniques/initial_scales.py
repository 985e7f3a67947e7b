"""Initial weights of the record runs: smaller feed-forward inputs in later layers, and gains that differ by random signs.

    mlp.up of layer l     times 1 - taper l / (L - 1)
    query, key, value     columns times 1 - spread σ;   mlp.up: columns times 1 + spread σ;   σ = ±1 for each channel

Those columns are where the gains of a norm before them would act, which this network does not have. In the upper half of the layers σ
has as many + as - in each head's width of channels, and the second layer of a pair has the opposite of the first. Output projections
start at 0 already.
Source: modded-nanogpt track 3, #44 to #46 (taper .30, spread .125); neutral to small there.
"""

from dataclasses import dataclass

import numpy as np
import torch

from stages.lib.node.params import Share
from stages.train import techniques


@dataclass(frozen=True)
class Options:
    taper: Share
    spread: Share


class Technique(techniques.Technique):
    @torch.no_grad()
    def initialise(self, tokens) -> None:
        blocks, config = self.model.blocks, self.model.config
        generator = np.random.default_rng([self.settings.seed, len(blocks)])
        signs = np.ones(config.width)
        for layer, block in enumerate(blocks):
            upper = layer >= len(blocks) // 2
            if upper and (layer - len(blocks) // 2) % 2:
                signs = -signs
            elif upper:
                head = np.resize([1.0, -1.0], config.head_width)
                signs = np.concatenate([generator.permutation(head) for _ in range(config.num_heads)])
            else:
                signs = generator.choice([-1.0, 1.0], config.width)
            spread = self.options.spread * torch.from_numpy(signs).float()
            up = block.mlp.up.weight
            up.mul_((1 + spread.to(up)) * (1 - self.options.taper * layer / max(len(blocks) - 1, 1)))
            if block.attention is not None:
                for weight in (block.attention.query.weight, block.attention.key.weight, block.attention.value.weight):
                    weight.mul_(1 - spread.to(weight))
