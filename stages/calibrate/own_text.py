"""Text that the model writes itself, for calibration without any other text, as in #1019.

    x_0 uniform over the vocabulary;   x_t drawn from softmax(z_t / temperature), z_t the logits after x_0 .. x_{t-1}

As published, there is no cache of keys and values: writing T tokens costs as much as reading T²/2 tokens. 64 rows of 2,048 tokens take a
few minutes on a large GPU. Guessing tokens ahead with random numbers drawn in advance saved a tenth of the passes: docs/log.md.

Source: parameter-golf #1019 (64 sequences of 2,048 tokens at temperature 0.8, 8 at a time).
"""

# B rows, T time, V vocabulary

import torch
from torch import Tensor

from stages.runtime.network import gpt


@torch.no_grad()
def write(model: gpt.GPT, *, rows: int, length: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Tokens int64 (B, T). They are drawn on the CPU with `generator`, so that the draws are the same for any device of the model."""
    tokens_BT = torch.randint(model.config.vocabulary_size, (rows, 1), generator=generator)
    for _ in range(length - 1):
        hidden_BTD = model.hidden(tokens_BT.to(model.embedding.weight.device))
        chances_BV = (model.head(hidden_BTD[:, -1]) / temperature).softmax(-1).cpu()
        tokens_BT = torch.cat((tokens_BT, torch.multinomial(chances_BV, 1, generator=generator)), dim=1)
    return tokens_BT
